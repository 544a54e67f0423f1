"""The page on the sources: every section and reference is treated, and every link leads somewhere."""

import re

import pytest
import yaml
from setup_cell import ROOT

PAGE = (ROOT / "book" / "sources.md").read_text(encoding="utf-8")
# The headings of each document, in English; the sections without text of their own are left out.
SECTIONS = {
    "000": """1.1 background of deep learning; 1.2 background of meta-learning; 2.1 combining the two;
        2.2 what it promises; 3.1 concepts of deep learning; 3.2 concepts of meta-learning; 3.3 how they are connected;
        4.1 algorithms of deep learning; 4.2 algorithms of meta-learning; 5.1 code, deep learning;
        5.2 code, meta-learning; 6.1 future; 6.2 challenges; 7.1 common questions; 7.2 references;
        8 conclusion; 9 references""",
    "001": """1.1 relation to deep learning; 1.2 advantages; 2.1 definition; 2.2 connection; 3.1 principle; 3.2 steps;
        3.3 formulas; 4.1 code, start; 4.2 code, rate; 4.3 code, optimiser; 5 future and challenges; 6 questions""",
    "002": """1.1 the problem; 1.2 state of research; 1.3 why it matters; 1.4 structure; 2.1 deep learning;
        2.2 meta-learning; 2.3 combination; 3.1 principle; 3.2 steps; 3.3 advantages and costs; 3.4 fields; 4.1 model;
        4.2 derivation; 4.3 case; 4.4 questions; 5.1 environment; 5.2 code; 5.3 reading the code; 5.4 results;
        6 applications; 7.1 learning resources; 7.2 tools; 7.3 papers; 7.4 other resources; 8 outlook; 9 questions""",
    "003": """1 background; 2 concepts; 3 steps; 4 formulas; 5 code; 6 applications; 7 tools; 8 outlook; 9 questions""",
    "004": """1.1 limits of deep learning; 1.2 meta-learning; 1.3 combination; 2.1 concepts of deep learning;
        2.2 concepts of meta-learning; 2.3 connection; 3.1.1 MAML; 3.1.2 Reptile; 3.2 metric methods;
        3.2.1 prototypical networks; 3.2.2 relation networks; 3.3 generative methods""",
}
REFERENCES = 56  # entries of the list of source 000


def numbers(text: str) -> set[str]:
    """Section or entry numbers in a cell; `1.1 to 1.4` names all between."""
    found: set[str] = set()
    for first, last in re.findall(r"(\d+(?:\.\d)*)(?: to (\d+(?:\.\d)*))?", text):
        chapter, _, begin = first.rpartition(".")
        end = last.rpartition(".")[2] if last else begin
        found |= {f"{chapter}.{k}" if chapter else str(k) for k in range(int(begin), int(end) + 1)}
    return found


def first_column(part: str) -> list[str]:
    return re.findall(r"^\| (.+?) \|", part, flags=re.M)


@pytest.mark.parametrize("source", SECTIONS)
def test_every_section_is_treated(source):
    table = PAGE.split(f"## Source {source}")[1].split("\n(sources-")[0]
    treated = set().union(*map(numbers, first_column(table)))
    headings = dict(re.split(r"\s+", heading.strip(), maxsplit=1) for heading in SECTIONS[source].split(";"))
    assert {n: headings[n] for n in headings if n not in treated} == {}


def test_every_reference_is_treated():
    table = PAGE.split("| 000, entry |")[1].split("| 002, 7.3 |")[0]
    # the entry numbers stand first in a cell, before a title that may hold numbers too
    lead = [re.match(r"(?:\d+(?: to \d+)?(?:, )?)+", cell) for cell in first_column(table)]
    entries = set().union(*(numbers(match.group()) for match in lead if match))
    assert entries == {str(k) for k in range(1, REFERENCES + 1)}


def test_every_link_leads_to_a_page_of_the_contents():
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    pages = {contents["root"], *(chapter["file"] for part in contents["parts"] for chapter in part["chapters"])}
    links = set(re.findall(r"\{doc\}`(?:[^`<]*<)?/([\w/]+)>?`", PAGE))
    assert links and links <= pages
    chapters = {page for page in pages if page.count("/") == 2}
    assert len(links & chapters) > 20


def test_every_label_exists():
    book = PAGE + "".join(path.read_text(encoding="utf-8") for path in (ROOT / "book").glob("*/*.ipynb"))
    for equation in re.findall(r"\{eq\}`([\w:-]+)`", PAGE):
        assert f"({equation})" in book, equation
    for theorem in re.findall(r"\{prf:ref\}`([\w-]+)`", PAGE):
        assert f":label: {theorem}\\n" in book, theorem
    for section in re.findall(r"\{ref\}`[^<`]*<([\w-]+)>`", PAGE):
        assert f"({section})=" in book, section
