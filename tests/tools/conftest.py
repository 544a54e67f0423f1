"""A book of one small chapter, made in a temporary folder."""

import nbformat
import pytest
from setup_cell import TAGS, setup_source

EXERCISE = "```{exercise-start} Predict\n:label: small-predict\n```\nWhat is two and two?"
BETWEEN = "```{exercise-end}\n```\n\n```{solution-start} small-predict\n:class: dropdown\n```\nCount."
PLOT = "import matplotlib.pyplot as plt\n\nplt.figure(figsize=(2, 1))\nplt.plot([1, 2])\nplt.show()"
ALT = {"mystnb": {"image": {"alt": "A rising line."}}}


def markdown(source):
    return nbformat.v4.new_markdown_cell(source)


def code(source, **metadata):
    return nbformat.v4.new_code_cell(source, metadata=metadata)


def small_chapter():
    """A chapter that was not run yet: a title, the setup cell, a picture, numbers, an exercise with its solution."""
    cells = [
        markdown("# Small"),
        code(setup_source(), tags=list(TAGS)),
        code(PLOT, **ALT),
        code("print('✓ two')\nprint('a', 0.12345)\n2 / 3"),
        markdown(EXERCISE),
        code("answer = ...\nprint('dots')"),
        markdown(BETWEEN),
        code("answer = 4\nprint(answer)"),
        markdown("```{solution-end}\n```\n\n## Summary\n\nFour."),
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    return notebook


@pytest.fixture
def chapter(tmp_path):
    """The path of the small chapter in a book of its own."""
    path = tmp_path / "book" / "theory" / "small.ipynb"
    path.parent.mkdir(parents=True)
    nbformat.write(small_chapter(), path)
    return path


@pytest.fixture(scope="session")
def recorded_text(tmp_path_factory):
    """The text of the small chapter after `record`; run once."""
    import record

    path = tmp_path_factory.mktemp("recorded") / "small.ipynb"
    nbformat.write(small_chapter(), path)
    seconds, problems = record.record(path, factor=5)
    assert problems == [] and seconds > 0
    return path.read_text(encoding="utf-8")


@pytest.fixture
def recorded(chapter, recorded_text):
    """The path of the small chapter as `record` stores it."""
    chapter.write_text(recorded_text, encoding="utf-8")
    return chapter
