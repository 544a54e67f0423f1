"""nbval with the book's tolerance, end to end: tiny notebooks whose stored outputs are right, nearly right or wrong."""

import os
import shutil
import subprocess
import sys
from xml.etree import ElementTree

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from setup_cell import ROOT

pytest.importorskip("nbval", reason="nbval is not installed")


def printed(source, stored, *tags, count=1):
    outputs = [new_output("stream", name="stdout", text=stored + "\n")] if stored is not None else []
    return new_code_cell(source, outputs=outputs, execution_count=count, metadata={"tags": list(tags)})


def value(source, stored):
    data = {"text/plain": stored, "text/html": f"<b>{stored}</b>"}
    shown = (
        f"from IPython.display import display\n\ndisplay({{'text/plain': {source}, 'text/html': {source}}}, raw=True)"
    )
    data["text/html"] = stored
    return new_code_cell(shown, outputs=[new_output("display_data", data=data)], execution_count=1)


ENVIRONMENT = "import os\n\nprint(os.environ['METABOOK_PROGRESS'], os.environ['OMP_NUM_THREADS'])"
CELLS = {
    "near": (printed("print(0.500005)", "0.5000"), True),
    "far": (printed("print(0.505)", "0.500"), False),
    "far, within its tag": (printed("print(0.505)", "0.500", "nbval-rtol-2e-2"), True),
    "near, and exact": (printed("print(0.500005)", "0.5000", "nbval-exact"), False),
    "another integer": (printed("print(5)", "6"), False),
    "another text": (printed("print('accuracy', 0.5)", "Accuracy 0.5"), False),
    "never run": (printed("print(1)", None, count=None), False),
    "output ignored": (printed("print(1)", "2", "nbval-ignore-output"), True),
    "stderr": (printed("import sys\n\nprint('careful', file=sys.stderr)", None), False),
    "two prints, one line each": (printed("print(0.50001)\nprint(2)", "0.5000\n2"), True),
    "output missing": (printed("print(1)", None), False),
    "raises": (printed("1 / 0", None), False),
    "near value": (value("'x 0.50001'", "x 0.5000"), True),
    "far value": (value("'x 0.51'", "x 0.50000"), False),
    "environment": (printed(ENVIRONMENT, "0 1"), True),
}


def run_nbval(folder, *options, **variables):
    """Outcome of each item, by name, and all that was printed."""
    report = folder / "report.xml"
    words = ["-m", "pytest", "--nbval", "--nbval-current-env", "-p", "no:cacheprovider", "--import-mode=importlib"]
    command = [sys.executable, *words, f"--rootdir={folder}", f"--junitxml={report}", *options, str(folder)]
    dropped = ("NBVAL_RTOL", "OMP_NUM_THREADS", "METABOOK_TIME_FACTOR", "METABOOK_PROGRESS", "PYTEST_ADDOPTS")
    environment = {name: text for name, text in os.environ.items() if name not in dropped}
    environment["PYTHONPATH"] = str(ROOT / "tools")
    done = subprocess.run(command, capture_output=True, text=True, env=environment | variables, cwd=folder)
    outcomes = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        outcomes[case.get("name")] = next((child.tag for child in case if child.tag != "system-out"), "passed")
    return outcomes, done.stdout + done.stderr


def book_of(folder, cells, **metadata):
    shutil.copy(ROOT / "book" / "conftest.py", folder)
    notebook = new_notebook(cells=cells)
    notebook.metadata.update(metadata)
    nbformat.write(notebook, folder / "tiny.ipynb")
    return folder


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    """All cells in one notebook, run once."""
    folder = book_of(tmp_path_factory.mktemp("nbval"), [cell for cell, _ in CELLS.values()])
    return run_nbval(folder)


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_passes_or_fails_as_it_should(name, verdicts):
    outcomes, output = verdicts
    position = list(CELLS).index(name)
    assert (outcomes[f"Cell {position}"] == "passed") is CELLS[name][1], output


def test_the_failures_say_why(verdicts):
    _, output = verdicts
    assert "never run" in output and "ZeroDivisionError" in output and "Unexpected output fields" in output
    assert verdicts[0]["time"] == "passed"
    assert len(verdicts[0]) == len(CELLS) + 1


def test_the_variable_widens_the_tolerance_and_integers_stay_exact(tmp_path):
    cells = [CELLS[name][0] for name in ("far", "another integer")]
    outcomes, output = run_nbval(book_of(tmp_path, cells), NBVAL_RTOL="0.05")
    assert (outcomes["Cell 0"], outcomes["Cell 1"]) == ("passed", "failure"), output


def test_a_chapter_over_its_budget_fails_in_its_time_alone(tmp_path):
    cells = [printed("import time\n\ntime.sleep(0.5)", None)]
    folder = book_of(tmp_path, cells, metabook={"budget": 1})
    outcomes, output = run_nbval(folder, METABOOK_TIME_FACTOR="0.1")
    assert outcomes == {"Cell 0": "passed", "time": "failure"}, output
    assert "more than 1 s times 0.1" in output


def test_without_its_data_a_chapter_is_run_and_not_compared(tmp_path):
    cells = [printed("print(1)", "2"), printed("print(2)", "3")]
    folder = book_of(tmp_path, cells, metabook={"data": ["omniglot"]})
    elsewhere = {
        "METABOOK_DATA": str(tmp_path / "none"),
        "METABOOK_CACHE": str(tmp_path / "cache"),
        "HOME": str(tmp_path),
    }
    outcomes, output = run_nbval(folder, "-rs", **elsewhere)
    assert outcomes == {"data": "skipped", "Cell 0": "passed", "Cell 1": "passed", "time": "passed"}, output
    assert "tiny: outputs are not compared, omniglot is not here" in output
