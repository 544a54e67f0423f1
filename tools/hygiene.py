"""What a stored chapter must be, beyond being right: `problems(path)` lists what it is not."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path

import chapters
import nbformat
from nbformat import NotebookNode
from normalise import ABSOLUTE_PATH, complaints, normalise
from setup_cell import TAGS, setup_source

LARGEST = 1_500_000  # bytes of a notebook
LONGEST = 25  # lines of a code cell
WIDEST = 88  # columns of code that the site shows; more scrolls
WIDEST_HIDDEN = 110
HIDDEN = {"hide-cell", "hide-input", "remove-cell", "remove-input"}
BUDGETS = {60: None, 120: re.compile(r"\b120 s(?:econds)?\b|\b(?:two|2) minutes\b", re.IGNORECASE)}
FOREIGN = re.compile(r"pip3? install (?:-\S+ )*['\"]?metabook(?![\w-])")  # another project owns that name
IMAGE_WITHOUT_WORDS = re.compile(r"!\[\s*\]\(")
FOLDED_PROOF = re.compile(r"\{prf:proof\}[^\n]*\n(?::[^\n]*\n)*:class:[^\n]*dropdown")


def problems(path: Path) -> list[str]:
    """Everything that is wrong with a notebook as it lies on disk, one line each."""
    notebook = chapters.read(path)
    found = [f"is {path.stat().st_size} bytes, more than {LARGEST}"] if path.stat().st_size > LARGEST else []
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        found.append(f"is no valid notebook: {error.message}")
    try:
        chapters.exercises(notebook)
    except ValueError as error:
        found.append(str(error))
    found += complaints(notebook) + _of_the_run(notebook) + _of_the_setup(notebook) + _of_the_budget(notebook)
    for number, cell in enumerate(notebook.cells):
        check = _of_code if cell.cell_type == "code" else _of_prose
        found += [f"cell {number}: {problem}" for problem in check(cell)]
    return found or _of_the_form(notebook, path)


def _of_the_run(notebook: NotebookNode) -> list[str]:
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    if None in counts:
        return ["has cells that were never run: python tools/record.py"]
    return [] if counts == list(range(1, len(counts) + 1)) else [f"was run out of order: {counts}"]


def _of_the_setup(notebook: NotebookNode) -> list[str]:
    first = next((cell for cell in notebook.cells if cell.cell_type == "code"), None)
    if first is None or first.source != setup_source() or chapters.tags(first) != TAGS:
        return ["does not begin with the setup cell of all chapters: python tools/record.py"]
    return []


def _of_the_budget(notebook: NotebookNode) -> list[str]:
    seconds = chapters.budget(notebook)
    if seconds not in BUDGETS:
        return [f"has a budget of {seconds} s; expected one of {sorted(BUDGETS)}"]
    said, prose = BUDGETS[seconds], "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    if said is not None and not said.search(prose):
        return [f"takes up to {seconds} s, and does not say so"]
    return []


def _of_code(cell: NotebookNode) -> Iterator[str]:
    lines = cell.source.splitlines()
    widest = WIDEST_HIDDEN if HIDDEN & set(chapters.tags(cell)) else WIDEST
    if len(lines) > LONGEST:
        yield f"has {len(lines)} lines of code, more than {LONGEST}"
    for line in lines:
        if len(line) > widest:
            yield f"has a line of {len(line)} columns, more than {widest}: {line.strip()[:50]}"
    if cell.source.rstrip().endswith(";"):  # a new run without history shows what it would hide
        yield f"ends in a semicolon: {lines[-1].strip()[:50]}"
    if FOREIGN.search(cell.source) or (re.search(r"\bpip\b", cell.source) and not chapters.is_setup_cell(cell)):
        yield "installs something; only the setup cell may"
    if match := ABSOLUTE_PATH.search(cell.source.replace(setup_source(), "")):
        yield f"names a path of one machine: {match[0][:50]}"
    drawn = {kind for output in cell.outputs for kind in output.get("data", {})}
    shown = [o.data["text/plain"] for o in cell.outputs if o.output_type == "execute_result" and len(o.data) == 1]
    if any("\n" in text for text in shown):  # a number or a line may be meant; a whole object, hardly
        yield f"shows the object of its last line; give it a name or print what matters: {lines[-1].strip()[:50]}"
    mystnb = cell.metadata.get("mystnb", {})
    words = [mystnb.get(place, {}).get("alt", "") for place in ("image", "figure")]
    if any(kind.startswith("image/") for kind in drawn) and not any(word.strip() for word in words):
        yield 'shows a picture without alt text: metadata {"mystnb": {"image": {"alt": "..."}}}'


def _of_prose(cell: NotebookNode) -> Iterator[str]:
    if FOREIGN.search(cell.source):
        yield "tells readers to install `metabook`, which is another project"
    if IMAGE_WITHOUT_WORDS.search(cell.source):
        yield "shows a picture without alt text: ![words](address)"
    if FOLDED_PROOF.search(cell.source):
        yield "folds a {prf:proof}, after which nothing on the page unfolds: write {admonition} Proof with that class"


def _of_the_form(notebook: NotebookNode, path: Path) -> list[str]:
    """Whether the file is as `record` writes it; editors leave their own metadata."""
    normal = copy.deepcopy(notebook)
    normalise(normal)
    if chapters.to_text(normal) == path.read_text(encoding="utf-8"):
        return []
    return ["is not stored as recorded (an editor saved it?): python tools/record.py"]
