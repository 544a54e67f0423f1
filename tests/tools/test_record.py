"""Recording: the same bytes twice, and nothing stored that should not be."""

import sys

import chapters
import nbformat
import pytest
import record
from setup_cell import setup_source


def run_source(path, source, **options):
    """Record a chapter of one cell; returns what is wrong, and whether the file changed."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source, id="one")])
    nbformat.write(notebook, path)
    before = path.read_bytes()
    _, problems = record.record(path, **{"factor": 5, **options})
    return problems, path.read_bytes() != before


def test_recording_twice_gives_the_same_bytes_and_check_agrees(recorded, recorded_text):
    assert record.record(recorded, factor=5)[1] == []
    assert recorded.read_text(encoding="utf-8") == recorded_text
    assert record.record(recorded, check=True, factor=5)[1] == []


def test_what_is_stored(recorded):
    notebook = chapters.read(recorded)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [1, 2, 3, 4, 5]
    assert [cell.id for cell in notebook.cells] == [f"cell-{number}" for number in range(9)]
    assert code[0].source == setup_source() and code[0].outputs == []
    assert set(code[1].outputs[0].data) == {"image/png", "text/plain"}
    assert code[2].outputs[0].text == "✓ two\na 0.12345\n"
    assert code[2].outputs[1].data["text/plain"].startswith("0.666")
    assert recorded.read_text(encoding="utf-8").endswith("}\n")


def test_check_names_the_cells_that_differ_and_stores_nothing(recorded):
    notebook = chapters.read(recorded)
    notebook.cells[3].outputs[0].text = "✓ three\n"
    chapters.write_atomically(recorded, notebook)
    before = recorded.read_bytes()
    (problem,) = record.record(recorded, check=True, factor=5)[1]
    assert problem == "a new recording differs in the cells 3"
    assert recorded.read_bytes() == before


@pytest.mark.parametrize(
    "source, words",
    [
        ("1 / 0", "ZeroDivisionError"),
        ("import sys\n\nprint('careful', file=sys.stderr)", "stderr: careful"),
        ("import warnings\n\nwarnings.warn('old')", "stderr"),
        ("object()", "address"),
        ("import os\n\nprint(os.path.abspath('x'))", "path of this machine"),
    ],
)
def test_what_must_not_be_stored_is_not(tmp_path, source, words):
    problems, changed = run_source(tmp_path / "one.ipynb", source)
    assert any(words in problem for problem in problems)
    assert not any("\x1b" in problem for problem in problems)
    assert not changed


def test_a_chapter_over_its_budget_is_not_stored(tmp_path):
    problems, changed = run_source(tmp_path / "one.ipynb", "import time\n\ntime.sleep(0.3)", factor=0.001)
    assert len(problems) == 1 and "more than the 0.06 s of its budget" in problems[0]
    assert not changed


def test_the_kernel_is_this_interpreter_with_one_thread_and_no_progress(tmp_path):
    source = (
        "import os, sys\n\nassert sys.executable == {0!r}\nprint([os.environ[name] for name in "
        "('METABOOK_PROGRESS', 'OMP_NUM_THREADS')], os.getcwd() == {1!r})"
    )
    path = tmp_path / "one.ipynb"
    problems, changed = run_source(path, source.format(sys.executable, str(tmp_path)))
    assert problems == []
    assert changed
    assert chapters.read(path).cells[1].outputs[0].text == "['0', '1'] True\n"


def test_the_command(chapter, monkeypatch, capsys):
    notebook = chapters.read(chapter)
    notebook.cells = [cell for cell in notebook.cells if "plt" not in cell.source]
    chapters.write_atomically(chapter, notebook)
    monkeypatch.setattr(chapters, "ROOT", chapter.parents[2])
    monkeypatch.setattr(record.chapters, "find_chapters", lambda names: [chapter])
    monkeypatch.setenv("METABOOK_TIME_FACTOR", "5")
    assert record.main(["--check"]) == 1
    assert "theory/small" in (out := capsys.readouterr().out) and "DIFFERS" in out
    assert record.main([]) == 0
    assert " ok\n" in capsys.readouterr().out
    assert record.main(["--check", "small"]) == 0


def test_the_command_names_the_chapters_it_knows(capsys):
    with pytest.raises(SystemExit) as stop:
        record.main(["no_such_chapter"])
    assert stop.value.code == 2
    assert "'no_such_chapter' fits 0 chapters" in capsys.readouterr().err
