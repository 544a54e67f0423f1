"""Each entry of the bibliography is cited, each citation resolves, and each entry says where to find the work."""

import re

import chapters
import pytest
from setup_cell import ROOT

ENTRY = re.compile(r"^@(?P<kind>\w+)\{(?P<key>[^,\s]+),(?P<body>.*?)^\}", re.MULTILINE | re.DOTALL)
FIELD = re.compile(r"^\s*(\w+)\s*=\s*[{\"](.*?)[}\"],?\s*$", re.MULTILINE)
CITATION = re.compile(r"\{cite(?::\w+)?\}`([^`]+)`")
PAGES = [*chapters.find_chapters(), *sorted((ROOT / "book").rglob("*.md"))]


def entries():
    path = ROOT / "book" / "references.bib"
    found = list(ENTRY.finditer(path.read_text(encoding="utf-8"))) if path.exists() else []
    return {match["key"]: dict(FIELD.findall(match["body"])) for match in found}


def cited_on(path):
    """The keys that a page cites, in its prose and in the captions of its figures."""
    texts = [path.read_text(encoding="utf-8")] if path.suffix == ".md" else []
    for cell in chapters.read(path).cells if path.suffix == ".ipynb" else []:
        texts.append(cell.source if cell.cell_type == "markdown" else str(cell.metadata.get("mystnb", "")))
    return {key.strip() for text in texts for keys in CITATION.findall(text) for key in keys.split(",")}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT / "book").as_posix())
def test_the_citations_of_a_page_resolve(path):
    assert cited_on(path) - set(entries()) == set()


def test_every_entry_is_cited():
    assert set(entries()) - set().union(*map(cited_on, PAGES)) == set()


def test_keys_are_unique():
    keys = re.findall(r"^@\w+\{([^,\s]+),", (ROOT / "book" / "references.bib").read_text(encoding="utf-8"), re.M)
    assert len(keys) == len(set(keys)) == len(entries()), "an entry is repeated, or does not end on a line of its own"


@pytest.mark.parametrize("key", entries())
def test_an_entry_says_who_when_what_and_where(key):
    fields = {name.lower() for name in entries()[key]}
    assert {"author", "title", "year"} <= fields
    assert not {"url", "doi"} <= fields, "give url or doi, not both"
    assert fields & {"url", "doi", "publisher"}, "where can it be found?"
