"""The rehearsal itself: an environment without the library, a chapter that installs it, and what must be noticed.

The environment of the test borrows every package of this one except the library, so nothing large is downloaded.
"""

import os
import site
import sys
from pathlib import Path

import chapters
import colab_rehearsal
import pytest
from colab_rehearsal import build_wheel, command, freeze, prepare, rehearse
from setup_cell import ROOT

OWN = ("metabook", "__editable__", "pip", "_distutils_hack", "distutils-precedence", "__pycache__")


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """An interpreter without the library, and the wheel."""
    folder = tmp_path_factory.mktemp("bare").resolve()
    command(sys.executable, "-m", "venv", folder / "venv")
    (there,) = (folder / "venv").glob("lib/python*/site-packages")
    for entry in (entry for here in site.getsitepackages() for entry in Path(here).iterdir()):
        if not entry.name.startswith(OWN) and not (there / entry.name).exists():
            os.symlink(entry, there / entry.name)
    python = prepare(folder / "venv", sys.executable, ["numpy"])
    return python, build_wheel(ROOT, folder / "wheel")


def change(path, position, source):
    notebook = chapters.read(path)
    notebook.cells[position].source = source
    chapters.write_atomically(path, notebook)
    return path


def test_a_chapter_alone_installs_the_library_and_nothing_else(bare, recorded):
    python, wheel = bare
    before = freeze(python)
    change(
        recorded,
        3,
        "import metabook\nimport os\n\nprint('✓', metabook.__version__)\nassert os.listdir() == ['small.ipynb']",
    )
    assert rehearse(recorded, python, wheel) == (1, [])
    assert freeze(python) == before, "the next chapter starts as this one did"


def test_a_claim_that_fails_is_a_failure(bare, recorded):
    change(recorded, 3, "from metabook.checking import expect\n\nexpect('two', 3, 2)")
    claims, problems = rehearse(recorded, *bare)
    assert claims == 0 and len(problems) == 1 and "claimed exactly 2, measured 3" in problems[0]


def test_any_other_change_of_the_environment_is_noticed(bare, recorded):
    python, wheel = bare
    source = (
        "import sysconfig\nfrom pathlib import Path\n\n"
        "folder = Path(sysconfig.get_path('purelib')) / 'extra-1.0.dist-info'\n"
        "folder.mkdir()\n(folder / 'METADATA').write_text('Name: extra\\nVersion: 1.0\\n')"
    )
    _, problems = rehearse(change(recorded, 3, source), python, wheel)
    (extra,) = python.parent.parent.glob("lib/*/site-packages/extra-1.0.dist-info")
    (extra / "METADATA").unlink()
    extra.rmdir()
    assert len(problems) == 1 and "extra==1.0" in problems[0] and "metabook-learning" in problems[0]


def test_a_chapter_without_the_setup_cell_is_refused(bare, recorded):
    assert "setup cell" in rehearse(change(recorded, 1, "import metabook"), *bare)[1][0]


def test_a_checkout_within_reach_is_refused(recorded, tmp_path):
    _, (problem,) = rehearse(recorded, Path(sys.executable), tmp_path / "no.whl")
    assert "could be imported before" in problem


def test_variables_that_lead_elsewhere_are_hidden(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert "PYTHONPATH" not in colab_rehearsal.clean_environment()


def test_a_command_that_fails_says_what_it_said():
    with pytest.raises(RuntimeError, match="a reason"):
        command(sys.executable, "-c", "raise SystemExit('a reason')")
