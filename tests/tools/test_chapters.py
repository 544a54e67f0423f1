"""Finding chapters, storing them, and reading the exercises out of them."""

import chapters
import nbformat
import pytest
from setup_cell import TAGS, setup_source


def notebook(*markdown_or_code):
    """Text that begins with `>>>` is a code cell."""
    cells = [
        nbformat.v4.new_code_cell(text[3:]) if text.startswith(">>>") else nbformat.v4.new_markdown_cell(text)
        for text in markdown_or_code
    ]
    return nbformat.v4.new_notebook(cells=cells)


def start(kind, name):
    return f"```{{{kind}-start}} {name}\n:label: {name}\n```"


def end(kind):
    return f"```{{{kind}-end}}\n```"


@pytest.mark.parametrize("name", ["small", "theory/small", "book/theory/small.ipynb", "theory/small.ipynb"])
def test_a_chapter_is_found_by_name(chapter, name):
    root = chapter.parents[2]
    assert chapters.find_chapters([name], root) == [chapter]
    assert chapters.find_chapters([str(chapter)], root) == [chapter]
    assert chapters.find_chapters(root=root) == [chapter]


def test_an_unknown_or_ambiguous_name_lists_what_there_is(chapter):
    root = chapter.parents[2]
    for name in ("smal", "mall", "small.md"):
        with pytest.raises(ValueError, match="theory/small"):
            chapters.find_chapters([name], root)
    (root / "book" / "metric").mkdir()
    (root / "book" / "metric" / "small.ipynb").write_text(chapter.read_text())
    with pytest.raises(ValueError, match="fits 2 chapters"):
        chapters.find_chapters(["small"], root)


def test_checkpoints_are_no_chapters(chapter):
    other = chapter.parent / ".ipynb_checkpoints" / "small-checkpoint.ipynb"
    other.parent.mkdir()
    other.write_text(chapter.read_text())
    assert chapters.find_chapters(root=chapter.parents[2]) == [chapter]


def test_writing_is_all_or_nothing(chapter, monkeypatch):
    before, changed = chapter.read_text(), chapters.read(chapter)
    changed.cells[0].source = "# Other"

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(chapters.os, "replace", interrupted)
        chapters.write_atomically(chapter, changed)
    assert chapter.read_text() == before
    chapters.write_atomically(chapter, changed)
    assert chapters.read(chapter).cells[0].source == "# Other"
    assert [path.name for path in chapter.parent.iterdir()] == ["small.ipynb"]


def test_the_setup_cell_is_put_before_the_first_code_and_replaces_an_older_one():
    book = notebook("# Title", "Why", ">>>1 + 1", "End")
    chapters.put_setup_cell(book, setup_source())
    assert [chapters.is_setup_cell(cell) for cell in book.cells] == [False, False, True, False, False]
    book.cells[2].source = "# an older edition: pip install metabook-learning"
    chapters.put_setup_cell(book, setup_source())
    assert book.cells[2].source == setup_source() and chapters.tags(book.cells[2]) == TAGS
    assert len(book.cells) == 5
    empty = notebook("# Title")
    chapters.put_setup_cell(empty, setup_source())
    assert chapters.is_setup_cell(empty.cells[1])


def test_exercises_and_their_solutions():
    book = notebook(
        "# Title\n" + start("exercise", "a-one") + "\nQuestion",
        ">>>stub",
        "a hint",
        end("exercise") + "\n" + start("solution", "a-one"),
        ">>>first",
        ">>>second",
        end("solution") + "\n" + start("exercise", "a-two") + "\nNo code\n" + end("exercise"),
        ">>>between",
        "````{exercise} Plain\n:label: a-three\nText with ```{note}\n```\n````\n\n```{solution} a-three\nBecause.\n```",
    )
    one, two, three = chapters.exercises(book)
    assert (one.label, one.cells, one.solution, one.solved) == ("a-one", [1], [4, 5], True)
    assert (two.label, two.cells, two.solution, two.solved) == ("a-two", [], [], False)
    assert (three.label, three.cells, three.solution, three.solved) == ("a-three", [], [], True)


def test_fences_of_colons_are_read_and_text_inside_a_fence_is_not():
    book = notebook(":::{exercise-start}\n:label: a-one\n:::", ">>>x", ":::{exercise-end}\n:::")
    assert [exercise.label for exercise in chapters.exercises(book)] == ["a-one"]
    assert chapters.exercises(notebook("````{note}\n```{exercise-start}\n:label: a\n```\n````")) == []


@pytest.mark.parametrize(
    "texts, words",
    [
        ([start("exercise", "a")], "'a' is never ended"),
        ([end("exercise")], "exercise-end without exercise-start"),
        ([start("exercise", "a"), end("solution")], "solution-end without"),
        ([start("exercise", "a"), start("exercise", "b")], "inside the exercise 'a'"),
        ([start("exercise", "a"), end("exercise"), start("exercise", "a"), end("exercise")], "of its own"),
        (["```{exercise} No label\nText\n```"], "of its own"),
        ([start("solution", "a"), end("solution")], "no such exercise above"),
    ],
)
def test_gates_that_do_not_match_are_refused(texts, words):
    with pytest.raises(ValueError, match=words):
        chapters.exercises(notebook(*texts))


def test_data_that_is_not_here_is_named(monkeypatch, tmp_path):
    book = notebook("# Title")
    assert chapters.absent_data(book) == []
    for name in ("METABOOK_DATA", "METABOOK_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    book.metadata["metabook"] = {"data": ["omniglot", "mnist"]}
    assert chapters.absent_data(book) == ["omniglot", "mnist"]
    book.metadata["metabook"] = {"data": ["no_such"]}
    with pytest.raises(ValueError, match="load_no_such"):
        chapters.absent_data(book)


def test_the_budget_is_sixty_seconds_unless_the_chapter_says_otherwise():
    book = notebook("# Title")
    assert chapters.budget(book) == 60
    book.metadata["metabook"] = {"budget": 120}
    assert chapters.budget(book) == 120
