"""Run chapters and store their outputs: `python tools/record.py [chapter ...]`.

The stored outputs are what the site shows and what the tests compare with.  Recording twice in a row gives
the same bytes.  A chapter that raises, writes to stderr, prints addresses or paths, or takes longer than its
budget (times METABOOK_TIME_FACTOR, 1 if not set) is not stored.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

import chapters
import nbformat
from nbclient.exceptions import CellExecutionError
from normalise import complaints, normalise
from running import kernel_environment, run
from setup_cell import setup_source


def record(path: Path, check: bool = False, threads: int = 1, factor: float = 1.0) -> tuple[float, list[str]]:
    """Run one chapter and store it.

    Args:
        path: the notebook.
        check: compare with what is stored, byte by byte, and store nothing.
        threads: of the kernel; stored outputs are made with one, as the tests run with one.
        factor: the budget is multiplied by it, for a slow or busy machine.

    Returns:
        Seconds taken, and what is wrong (empty: stored, or equal).
    """
    notebook = chapters.read(path)
    chapters.put_setup_cell(notebook, setup_source())
    if absent := chapters.absent_data(notebook):
        return 0.0, [f"needs {', '.join(absent)}, which is not here: set METABOOK_DATA, or fetch it"]
    try:
        seconds = run(notebook, path.parent, environment=kernel_environment(threads))
    except CellExecutionError as error:
        return 0.0, [re.sub(r"\x1b\[[\d;]*m", "", str(error))]
    normalise(notebook)
    problems = complaints(notebook)
    allowed = chapters.budget(notebook) * factor
    if seconds > allowed:
        problems.append(f"took {seconds:.1f} s, more than the {allowed:g} s of its budget")
    if not problems and not check:
        chapters.write_atomically(path, notebook)
    if check and chapters.to_text(notebook) != path.read_text(encoding="utf-8"):
        problems += changed_cells(chapters.read(path), notebook)
    return seconds, problems


def changed_cells(stored: nbformat.NotebookNode, fresh: nbformat.NotebookNode) -> list[str]:
    """Which cells of a notebook a new recording would change."""
    numbers = [
        str(number) for number, (old, new) in enumerate(zip(stored.cells, fresh.cells, strict=False)) if old != new
    ]
    return [f"a new recording differs in the cells {', '.join(numbers)}" if numbers else "metadata differ"]


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("chapter", nargs="*", help="for example maml or optimization/maml; default: all")
    parser.add_argument("--check", action="store_true", help="store nothing, fail if it would differ")
    parser.add_argument("--threads", type=int, default=1, help="threads of the kernel; default 1")
    options = parser.parse_args(arguments)
    factor = float(os.environ.get("METABOOK_TIME_FACTOR", "1"))
    try:
        paths = chapters.find_chapters(options.chapter)
    except ValueError as error:
        parser.error(str(error))
    failed = 0
    for path in paths:
        seconds, problems = record(path, options.check, options.threads, factor)
        verdict = "NOT STORED" if problems and not options.check else "DIFFERS" if problems else "ok"
        chapters.report(path, seconds, verdict, problems)
        failed += bool(problems)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
