"""Write the chapters without their solutions: `python tools/student_edition.py OUT`.

Exercises stay, their stubs lose what they printed, and `check` still grades them.  OUT must not exist; it appears
complete or not at all.
"""

from __future__ import annotations

import argparse
import copy
import os
import shutil
import sys
import tempfile
from pathlib import Path

import chapters
import nbformat
from nbformat import NotebookNode


def without_solutions(notebook: NotebookNode) -> NotebookNode:
    """A copy of a chapter without its solutions, and without the outputs of the cells of its exercises.

    Raises:
        ValueError: the gates of an exercise do not match, or no exercise is left.
    """
    found = chapters.exercises(notebook)  # raises where gates do not match
    if not found:
        raise ValueError("the chapter has no exercise")
    student = copy.deepcopy(notebook)
    for position in (position for exercise in found for position in exercise.cells):
        student.cells[position].outputs, student.cells[position].execution_count = [], None
    kept, inside = [], False
    for cell in student.cells:
        if cell.cell_type == "code":
            kept += [] if inside else [cell]
            continue
        cell.source, inside = _without_solution_text(cell.source, inside)
        kept += [cell] if cell.source else []
    student.cells = kept
    left = chapters.exercises(student)
    if [e.label for e in left] != [e.label for e in found] or any(e.solved for e in left):
        raise ValueError(f"the exercises {[e.label for e in found]} became {[e.label for e in left]}")
    nbformat.validate(student)
    return student


def _without_solution_text(markdown: str, inside: bool) -> tuple[str, bool]:
    """The part of a Markdown cell outside of solutions, and whether the next cell begins inside of one."""
    kept, position = [], 0
    for name, _, start, end in chapters.directive_spans(markdown):
        if name not in ("solution", "solution-start", "solution-end"):
            continue
        kept += [] if inside else [markdown[position:start]]
        position, inside = end, name == "solution-start"
    kept += [] if inside else [markdown[position:]]
    return "".join(kept).strip(), inside


def write_edition(out: Path, root: Path = chapters.ROOT) -> list[Path]:
    """Write every chapter that has exercises under `out`, in the folders of the book; returns their paths.

    Raises:
        FileExistsError: `out` exists.
        ValueError: no chapter has exercises, or one is not written as it should be.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists; name a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    written = []
    try:
        for path in chapters.find_chapters(root=root):
            notebook = chapters.read(path)
            if not chapters.exercises(notebook):
                continue
            place = path.relative_to(root / "book")
            (scratch / place).parent.mkdir(parents=True, exist_ok=True)
            chapters.write_atomically(scratch / place, without_solutions(notebook))
            written.append(out / place)
        if not written:
            raise ValueError(f"no chapter under {root / 'book'} has an exercise")
        scratch.chmod(0o755)
        os.rename(scratch, out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return written


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="the folder to create")
    options = parser.parse_args(arguments)
    try:
        for path in write_edition(options.out):
            print(path)
    except (ValueError, FileExistsError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
