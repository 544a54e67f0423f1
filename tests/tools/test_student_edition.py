"""The student edition: no solution, no output that gives one away, every exercise and its check still there."""

import chapters
import nbformat
import pytest
from student_edition import main, without_solutions, write_edition


def test_solutions_go_and_exercises_stay(recorded):
    book = chapters.read(recorded)
    student = without_solutions(book)
    text = "\n".join(cell.source for cell in student.cells)
    assert [exercise.label for exercise in chapters.exercises(student)] == ["small-predict"]
    assert "solution" not in text and "Count." not in text and "answer = 4" not in text
    assert "answer = ..." in text and "What is two and two?" in text
    assert "## Summary\n\nFour." in text, "what follows a solution in its last cell stays"
    stub = next(cell for cell in student.cells if cell.source.startswith("answer = ..."))
    assert stub.outputs == [] and stub.execution_count is None
    assert student.cells[2].outputs == book.cells[2].outputs, "other outputs stay"
    assert book == chapters.read(recorded), "the chapter itself is not changed"


def test_plain_solutions_and_those_of_many_cells_go():
    texts = [
        "Before ```{solution} x``` in a line stays.\n\n```{exercise}\n:label: a-one\nWhy?\n```\n\n"
        "````{solution} a-one\nBecause\n```{note}\nof this\n```\n````\n\nAfter",
        "```{exercise-start}\n:label: a-two\n```",
        "```{exercise-end}\n```\n```{solution-start} a-two\n```\nSecret one",
        "Secret two",
        "Secret three\n```{solution-end}\n```\nBetween",
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text) for text in texts])
    book.cells.insert(4, nbformat.v4.new_code_cell("secret = 4"))
    student = without_solutions(book)
    text = "\n".join(cell.source for cell in student.cells)
    assert "ecret" not in text and "Because" not in text and "of this" not in text
    assert all(words in text for words in ("in a line stays", "Why?", "After", "Between"))
    assert [exercise.label for exercise in chapters.exercises(student)] == ["a-one", "a-two"]


def test_a_chapter_without_exercise_is_refused():
    with pytest.raises(ValueError, match="no exercise"):
        without_solutions(nbformat.v4.new_notebook())


def test_the_edition_is_written_whole_beside_other_files(recorded, tmp_path):
    out = tmp_path / "editions" / "students"
    (written,) = write_edition(out, root=tmp_path)
    assert written == out / "theory" / "small.ipynb"
    nbformat.validate(nbformat.read(written, as_version=4))
    assert [path.name for path in out.parent.iterdir()] == ["students"]
    with pytest.raises(FileExistsError):
        write_edition(out, root=tmp_path)


def test_nothing_is_left_when_a_chapter_is_broken(recorded, tmp_path):
    book = chapters.read(recorded)
    book.cells.pop()  # the end of the solution
    chapters.write_atomically(recorded.with_name("zz_broken.ipynb"), book)
    with pytest.raises(ValueError, match="never ended"):
        write_edition(tmp_path / "out", root=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["book"]


def test_a_book_without_exercises_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no chapter"):
        write_edition(tmp_path / "out", root=tmp_path)


def test_the_command_refuses_an_existing_folder(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path)])
    assert stop.value.code == 2 and "exists" in capsys.readouterr().err
