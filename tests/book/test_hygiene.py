"""The chapters as they lie in the repository."""

import chapters
import hygiene
import pytest
import yaml
from setup_cell import ROOT

CHAPTERS = chapters.find_chapters()


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_is_clean(path):
    assert hygiene.problems(path) == []


def listed():
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    return {contents["root"], *(page["file"] for part in contents["parts"] for page in part["chapters"])}


def test_the_table_of_contents_lists_every_chapter_and_nothing_else():
    pages = {path.relative_to(ROOT).with_suffix("").as_posix() for path in CHAPTERS}
    assert pages <= listed()
    for name in listed():
        assert any((ROOT / f"{name}{suffix}").exists() for suffix in (".md", ".ipynb")), name
