"""What the built pages say without a browser: pictures have words, names and buttons lead where they should."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import yaml
from bs4 import BeautifulSoup

ROOT = Path(__file__).parents[2]
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
DOCUMENTS = [TOC["root"], *(chapter["file"] for part in TOC["parts"] for chapter in part["chapters"])]
CHAPTERS = [document for document in DOCUMENTS if (ROOT / f"{document}.ipynb").exists()]


@cache
def parsed(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def targets(page: Path, selector: str) -> list[Path]:
    """The files that the links of a page lead to."""
    found = (link["href"].partition("#")[0] for link in parsed(page).select(selector))
    return [(page.parent / href).resolve() for href in found]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_picture_has_words(site, document):
    for image in parsed(site / f"{document}.html").select("article img"):
        words = image.get("alt", "")
        assert len(words.split()) >= 3, f"{image['src']} says {words!r}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_name_of_the_library_is_a_link(site, document):
    """A reference that Sphinx could not resolve is left as code without a link, and without a warning."""
    names = parsed(site / f"{document}.html").select("code.xref.py")
    assert [name.text for name in names if name.find_parent("a", class_="reference") is None] == []


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_buttons_lead_to_the_notebook(site, chapter):
    """The Colab link opens this very notebook at the public address, and the download is the notebook itself."""
    public = CONFIG["repository"]["url"].removeprefix("https://github.com/")
    colab = f"https://colab.research.google.com/github/{public}/blob/{CONFIG['repository']['branch']}/{chapter}.ipynb"
    page = site / f"{chapter}.html"
    assert parsed(page).select(f'a[href="{colab}"]')
    download = targets(page, 'a[href*="_sources/"][href$=".ipynb"]')[0]
    assert download.read_bytes() == (ROOT / f"{chapter}.ipynb").read_bytes()


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_chapter_and_library_link_to_each_other(site, chapter):
    page = site / f"{chapter}.html"
    links = targets(page, "article a[href*='api/metabook/']")
    assert links, "the chapter does not link to the library"
    mirrored = site / "api" / chapter.replace("book/", "metabook/", 1) / "index.html"
    target = mirrored.resolve() if mirrored.resolve() in links else links[0]
    assert page.resolve() in targets(target, "article .used-in a")
