"""Rehearse Colab on this machine: `python tools/colab_rehearsal.py [chapter ...]`.

A fresh virtual environment with versions like Colab's, and without the library or this checkout.  Each chapter is
copied alone into an empty folder and run there; its setup cell installs the library from a wheel built here.  It
fails if a cell raises (a claim that `expect` makes included), or if the setup cell changed anything but our own
distribution.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import chapters
from nbclient.exceptions import CellExecutionError
from running import kernel_environment, run
from setup_cell import setup_source

OURS = "metabook-learning"
# What Colab has, as far as its packages matter here; torch as pinned, since every torch from 2.4 on must do.
COLAB = ["ipykernel==6.17.1", "matplotlib==3.10.0", "numpy==2.0.2", "scikit-learn==1.6.1", "tqdm==4.67.1"]


def command(*arguments: str | Path, **options: object) -> str:
    """Run a command outside of the checkout and return what it printed.

    Raises:
        RuntimeError: it failed; the message ends with what it said.
    """
    words = [str(argument) for argument in arguments]
    done = subprocess.run(words, capture_output=True, text=True, env=clean_environment(), **options)  # type: ignore[call-overload]
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} failed:\n{done.stdout}{done.stderr}"[-4000:])
    return done.stdout


def clean_environment() -> dict[str, str]:
    """This process's variables without those that let an interpreter find packages elsewhere."""
    hidden = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "METABOOK_SOURCE"}
    return {name: value for name, value in os.environ.items() if name not in hidden}


def build_wheel(root: Path, folder: Path) -> Path:
    """Build our wheel from a copy of the sources, so that the checkout stays as it is."""
    sources = folder / "sources"
    sources.mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, sources)
    shutil.copytree(root / "metabook", sources / "metabook", ignore=shutil.ignore_patterns("__pycache__"))
    command(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, sources, cwd=folder)
    (wheel,) = folder.glob("metabook_learning-*.whl")
    return wheel


def prepare(venv: Path, base: str, requirements: list[str]) -> Path:
    """Create the environment, or take one that a rehearsal left; returns its interpreter, without our library."""
    python = venv / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not python.exists():
        command(base, "-m", "venv", venv)
    command(python, "-m", "pip", "install", "--quiet", *requirements)
    command(python, "-m", "pip", "uninstall", "--quiet", "--yes", OURS)
    return python


def freeze(python: Path) -> set[str]:
    """The distributions of an environment, one line each."""
    return set(command(python, "-m", "pip", "freeze", "--all").split("\n")) - {""}


def rehearse(path: Path, python: Path, wheel: Path) -> tuple[int, list[str]]:
    """Run one chapter alone; returns how many claims it kept, and what went wrong."""
    problems = []
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as name:
        folder = Path(name)
        where = ["-c", "import importlib.util as u; s = u.find_spec('metabook'); print(s.origin if s else '')"]
        before = freeze(python)
        if origin := command(python, *where, cwd=folder).strip():
            return 0, [f"metabook could be imported before the setup cell ran, from {origin}"]
        notebook = chapters.read(Path(shutil.copy(path, folder)))
        first = next((cell.source for cell in notebook.cells if cell.cell_type == "code"), None)
        if first != setup_source():
            return 0, ["does not begin with the setup cell: python tools/record.py"]
        environment = {**kernel_environment(threads=1), "METABOOK_SOURCE": wheel.as_uri(), "PIP_NO_INDEX": "1"}
        environment = {key: value for key, value in environment.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
        try:
            run(notebook, folder, environment=environment, interpreter=str(python))
        except CellExecutionError as error:
            problems.append(re.sub(r"\x1b\[[\d;]*m", "", str(error)))
        change = before ^ freeze(python)
        if [line for line in change if not line.startswith(f"{OURS} @ ")] or len(change) != 1:
            problems.append(f"the setup cell changed the environment: {sorted(change)}")
        origin = Path(command(python, *where, cwd=folder).strip())
        if not origin.is_relative_to(python.parent.parent):
            problems.append(f"metabook was imported from {origin}, not from the environment")
        command(python, "-m", "pip", "uninstall", "--quiet", "--yes", OURS)
    printed = "".join(out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", []))
    return printed.count("✓"), problems


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("chapter", nargs="*", help="for example maml or optimization/maml; default: all")
    parser.add_argument("--venv", type=Path, help="where to make the environment, or one to use again; it is kept")
    parser.add_argument("--python", default=sys.executable, help="the interpreter to make it with")
    parser.add_argument("--torch", default="torch==2.13.0", help="what to install as torch")
    options = parser.parse_args(arguments)
    try:
        paths = chapters.find_chapters(options.chapter)
    except ValueError as error:
        parser.error(str(error))
    failed = 0
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as name:
        wheel = build_wheel(chapters.ROOT, Path(name).resolve() / "wheel")
        venv = (options.venv or Path(name) / "venv").resolve()
        python = prepare(venv, options.python, [*COLAB, options.torch])
        for path in paths:
            begin = time.perf_counter()
            claims, problems = rehearse(path, python, wheel)
            verdict = "FAILED" if problems else f"ok, {claims} claims kept"
            chapters.report(path, time.perf_counter() - begin, verdict, problems)
            failed += bool(problems)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
