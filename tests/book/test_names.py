"""Every `metabook.*` name that the book's prose uses exists."""

import importlib
import re

import chapters
import pytest
from setup_cell import ROOT

NAME = re.compile(r"(?<![\w/.-])metabook(?:\.[A-Za-z_]\w*)+")
FILES = {"ipynb", "yml", "yaml", "toml", "md", "git"}  # metabook.git is an address, not a name
PAGES = [*chapters.find_chapters(), *sorted((ROOT / "book").rglob("*.md")), *sorted(ROOT.glob("*.md"))]


def prose(path):
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    return "\n".join(cell.source for cell in chapters.read(path).cells)


def names_in(text):
    return {name for name in NAME.findall(text) if name.rsplit(".", 1)[1] not in FILES}


def exists(name):
    """Whether a dotted name is a module, or something that a module holds."""
    words = name.split(".")
    for cut in range(len(words), 0, -1):
        try:
            thing = importlib.import_module(".".join(words[:cut]))
        except ModuleNotFoundError:
            continue
        for word in words[cut:]:
            if not hasattr(thing, word) and word not in getattr(thing, "__annotations__", {}):
                return False
            thing = getattr(thing, word, None)
        return True
    return False


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_names_of_a_page_exist(path):
    assert [name for name in sorted(names_in(prose(path))) if not exists(name)] == []


def test_names_are_found_and_looked_up():
    text = "{py:class}`~metabook.learner.Learner`, `metabook.Set.x`, https://github.com/a/metabook.git, metabook."
    assert names_in(text) == {"metabook.learner.Learner", "metabook.Set.x"}
    assert exists("metabook.learner.Learner.adapt") and exists("metabook.optimization.maml")
    assert exists("metabook.Scores.per_task"), "a field of a dataclass without default"
    assert not exists("metabook.learner.Learner.adopt") and not exists("metabook.nothing")
