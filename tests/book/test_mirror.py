"""The three trees mirror each other: book, metabook and tests."""

import ast
from pathlib import Path

import chapters
import pytest
from setup_cell import ROOT

LIBRARY = ROOT / "metabook"
TESTS = ROOT / "tests"
OWN = {"benchmarks", "book", "site", "tools"}  # tests of what is not the library
OWN_FILES = {"test_readme", "test_package"}
GRADERS = LIBRARY / "checking" / "graders"  # graded by tests/checking/test_graders.py, one for all


def imports_of(path: Path) -> set[str]:
    """Every dotted name that a test imports, a module or something in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def parts(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_dir() and list(path.rglob("[!_]*.py"))}


def test_every_folder_of_the_library_has_its_folder_of_tests_and_back():
    assert parts(LIBRARY) == parts(TESTS) - OWN


MODULES = [path for path in LIBRARY.rglob("[!_]*.py") if GRADERS not in path.parents]


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES}), ids=lambda folder: folder.name)
def test_the_tests_beside_a_folder_import_it(folder):
    there = TESTS / folder.relative_to(LIBRARY)
    package = ".".join(folder.relative_to(ROOT).parts)
    tests = [path for path in there.glob("test_*.py") if path.stem not in OWN_FILES]
    assert tests
    modules = {path.stem for path in folder.iterdir()}
    named = {path for path in tests if path.stem.removeprefix("test_") in modules}
    importing = {path for path in tests if any(name.startswith(package) for name in imports_of(path))}
    strangers = sorted(path.name for path in set(tests) - named - importing)
    assert strangers == [], f"these tests are of no module of {package}; they belong elsewhere"


@pytest.mark.parametrize("path", chapters.find_chapters(), ids=lambda path: path.stem)
def test_a_chapter_lies_in_a_part_of_the_library(path):
    part = path.relative_to(ROOT / "book").parts[0]
    if path.parent != ROOT / "book":  # the intro belongs to no part
        assert (LIBRARY / part).is_dir()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_method_has_its_chapter(path):
    part = path.parent.name
    if part in {place.parent.name for place in (ROOT / "book").glob("*/*.ipynb")}:
        assert (ROOT / "book" / part / f"{path.stem}.ipynb").exists()


def test_every_grader_belongs_to_a_chapter():
    graders = {path.stem for path in GRADERS.glob("[!_]*.py")}
    assert graders <= {path.stem for path in chapters.find_chapters()}
