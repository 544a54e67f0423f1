"""The page on the sources: every section of the five documents is treated, and every link leads to a page."""

import re

import pytest
import yaml
from setup_cell import ROOT

PAGE = (ROOT / "book" / "sources.md").read_text(encoding="utf-8")
# The numbers of the sections of each document.
SECTIONS = {
    "000": "1.1 1.2 2.1 2.2 3.1 3.2 3.3 4.1 4.2 5.1 5.2 6.1 6.2 7.1 7.2 8 9",
    "001": "1.1 1.2 2.1 2.2 3.1 3.2 3.3 4.1 4.2 4.3 5 6",
    "002": "1.1 1.2 1.3 1.4 2.1 2.2 2.3 3.1 3.2 3.3 3.4 4.1 4.2 4.3 4.4 5.1 5.2 5.3 5.4 6 7.1 7.2 7.3 7.4 8 9",
    "003": "1 2 3 4 5 6 7 8 9",
    "004": "1.1 1.2 1.3 2.1 2.2 2.3 3.1.1 3.1.2 3.2 3.2.1 3.2.2 3.3",
}


def treated(source: str) -> set[str]:
    """The section numbers that the first column of a source's table names; `1.1 to 1.4` names all between."""
    table = PAGE.split(f"## Source {source}")[1].split("\n(sources-")[0]
    numbers: set[str] = set()
    for row in re.findall(r"^\| (.+?) \|", table, flags=re.M):
        for first, last in re.findall(r"(\d(?:\.\d)*)(?: to (\d(?:\.\d)*))?", row):
            chapter, _, begin = first.rpartition(".")
            end = last.rpartition(".")[2] if last else begin
            numbers |= {f"{chapter}.{k}" if chapter else str(k) for k in range(int(begin), int(end) + 1)}
    return numbers


@pytest.mark.parametrize("source", SECTIONS)
def test_every_section_is_treated(source):
    assert set(SECTIONS[source].split()) <= treated(source)


def test_every_link_leads_to_a_page_of_the_contents():
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    pages = {contents["root"], *(chapter["file"] for part in contents["parts"] for chapter in part["chapters"])}
    links = set(re.findall(r"\{doc\}`(?:[^`<]*<)?/([\w/]+)>?`", PAGE))
    assert links and links <= pages
    chapters = {page for page in pages if page.count("/") == 2}
    assert len(links & chapters) > 20
