"""The public address stands in pyproject and _config, and nothing in the project names another one."""

import re

import chapters
import set_address
import yaml
from setup_cell import ROOT

ADDRESS = set_address.current()


def test_config_and_pyproject_agree():
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    assert config["repository"]["url"] == ADDRESS.repository
    assert config["html"]["baseurl"].rstrip("/") == ADDRESS.site


def test_no_file_names_another_repository_or_site_of_the_book():
    name = re.escape(ADDRESS.slug.split("/")[1])
    other = re.compile(rf"[\w-]+\.github\.io/{name}\b|github\.com/[\w-]+/{name}\b(?![\w-])", re.IGNORECASE)
    known = {ADDRESS.site.removeprefix("https://"), ADDRESS.repository.removeprefix("https://")}
    for path in set_address.text_files(ROOT):
        if path.name != "uv.lock" and "tests" not in path.relative_to(ROOT).parts:
            assert set(other.findall(path.read_text(encoding="utf-8", errors="replace"))) <= known, path


def test_every_chapter_installs_from_the_address():
    for path in chapters.find_chapters():
        assert f'address = "{ADDRESS.repository}"' in path.read_text(encoding="utf-8").replace('\\"', '"')
