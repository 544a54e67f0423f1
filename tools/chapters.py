"""A chapter, for tools and tests: where it lies, how it is stored, which exercises it holds."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from setup_cell import ROOT, TAGS

DIRECTIVE = re.compile(r"^ {0,3}(?P<fence>`{3,}|:{3,})\{(?P<name>[\w-]+)\}[ \t]*(?P<argument>[^\n]*)$", re.MULTILINE)
LABEL = re.compile(r"^:label:\s*(\S+)\s*$", re.MULTILINE)
BUDGET = 60  # seconds on two cores, for a chapter that does not say otherwise


def find_chapters(names: list[str] | None = None, root: Path = ROOT) -> list[Path]:
    """The notebooks of the book, or those that are named: `maml`, `optimization/maml` or a path.

    Raises:
        ValueError: a name fits no chapter, or more than one.
    """
    everything = sorted((root / "book").rglob("*.ipynb"))
    everything = [path for path in everything if ".ipynb_checkpoints" not in path.parts]
    if not names:
        return everything
    found = []
    for name in names:
        plain = name.removesuffix(".ipynb").removeprefix("book/")
        same = [p for p in everything if p.with_suffix("").as_posix().endswith("/" + plain)]
        same = same or [p for p in everything if p.resolve() == Path(name).resolve()]
        if len(same) != 1:
            known = ", ".join(p.relative_to(root / "book").with_suffix("").as_posix() for p in everything)
            raise ValueError(f"{name!r} fits {len(same)} chapters; the chapters are: {known or 'none yet'}")
        found.append(same[0])
    return found


def report(path: Path, seconds: float, verdict: str, problems: list[str]) -> None:
    """Print what a command made of a chapter: one line, and one for each problem."""
    print(f"{path.relative_to(ROOT / 'book').with_suffix('').as_posix():40s} {seconds:6.1f} s  {verdict}", flush=True)
    for problem in problems:
        print(f"    {problem}", flush=True)


def read(path: Path) -> NotebookNode:
    """A notebook, as version 4."""
    return nbformat.read(path, as_version=4)


def to_text(notebook: NotebookNode) -> str:
    """The bytes of a stored notebook, as text."""
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def write_atomically(path: Path, notebook: NotebookNode) -> None:
    """Write beside the notebook and swap: a reader sees the old file or the new one, never half of it."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        scratch.write_text(to_text(notebook), encoding="utf-8")
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def put_setup_cell(notebook: NotebookNode, source: str) -> None:
    """Make the setup cell the first code cell (a title may stay above), in place of an older edition."""
    code = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    if code and is_setup_cell(notebook.cells[code[0]]):
        cell = notebook.cells[code[0]]
    else:
        cell = nbformat.v4.new_code_cell(id="setup")
        notebook.cells.insert(code[0] if code else len(notebook.cells), cell)
    cell.source = source
    cell.metadata["tags"] = list(TAGS)


def is_setup_cell(cell: NotebookNode) -> bool:
    """Whether a code cell is the setup cell, in this or an older edition."""
    return cell.cell_type == "code" and "metabook-learning" in cell.source and "pip" in cell.source


def tags(cell: NotebookNode) -> list[str]:
    """The tags of a cell."""
    return cell.metadata.get("tags", [])


def budget(notebook: NotebookNode) -> int:
    """The seconds that a chapter may take, `{"metabook": {"budget": 120}}` in its metadata, else 60."""
    return notebook.metadata.get("metabook", {}).get("budget", BUDGET)


def absent_data(notebook: NotebookNode) -> list[str]:
    """The data sets that a chapter names, `{"metabook": {"data": ["omniglot"]}}`, and that are not on this machine.

    Such a chapter runs on other data here, so its stored outputs say nothing of this run.

    Raises:
        ValueError: the library knows no such data set.
    """
    names, absent = notebook.metadata.get("metabook", {}).get("data", []), []
    for name in names:
        data = importlib.import_module("metabook.data")  # only now: it brings torch
        if not hasattr(data, f"load_{name}"):
            raise ValueError(f"a chapter names the data {name!r}, and there is no metabook.data.load_{name}")
        try:
            getattr(data, f"load_{name}")(download=False)
        except FileNotFoundError:
            absent.append(name)
    return absent


@dataclass
class Exercise:
    """One exercise: its label, and the positions of the code cells in it and in its solution."""

    label: str
    cells: list[int] = field(default_factory=list)
    solution: list[int] = field(default_factory=list)
    solved: bool = False


def exercises(notebook: NotebookNode) -> list[Exercise]:
    """The exercises of a chapter, gated or plain, in order, each with its solution.

    Raises:
        ValueError: a gate without its other half or inside another, an exercise without label, a solution
            without exercise.
    """
    found: dict[str, Exercise] = {}
    gate: tuple[str, Exercise] | None = None  # the open one: "exercise" or "solution", of which exercise
    for position, cell in enumerate(notebook.cells):
        if cell.cell_type == "code" and gate is not None:
            (gate[1].cells if gate[0] == "exercise" else gate[1].solution).append(position)
        for name, argument, body in directives(cell.source) if cell.cell_type == "markdown" else ():
            kind, _, side = name.partition("-")
            if kind not in ("exercise", "solution") or side not in ("", "start", "end"):
                continue
            if side == "end":
                if gate is None or gate[0] != kind:
                    raise ValueError(f"cell {position}: {name} without {kind}-start")
                gate = None
                continue
            if gate is not None:
                raise ValueError(f"cell {position}: {name} inside the {gate[0]} {gate[1].label!r}")
            if kind == "exercise":
                label = LABEL.search(body)
                if label is None or label[1] in found:
                    raise ValueError(f"cell {position}: an exercise needs a :label: of its own")
                found[label[1]] = Exercise(label[1])
            elif argument not in found:
                raise ValueError(f"cell {position}: a solution of {argument!r}, and no such exercise above")
            exercise = found[label[1] if kind == "exercise" else argument]
            exercise.solved = exercise.solved or kind == "solution"
            gate = (kind, exercise) if side == "start" else None
    if gate is not None:
        raise ValueError(f"the {gate[0]} {gate[1].label!r} is never ended")
    return list(found.values())


def directives(markdown: str) -> Iterator[tuple[str, str, str]]:
    """Name, argument and body of each directive at the top level of a Markdown cell."""
    for name, argument, start, end in directive_spans(markdown):
        yield name, argument, markdown[start:end]


def directive_spans(markdown: str) -> Iterator[tuple[str, str, int, int]]:
    """Name and argument of each top-level directive, and where it begins and ends."""
    position = 0
    while match := DIRECTIVE.search(markdown, position):
        fence = match["fence"]
        close = re.compile(rf"^ {{0,3}}{re.escape(fence[0])}{{{len(fence)},}}[ \t]*$", re.MULTILINE)
        end = close.search(markdown, match.end())
        stop = end.end() if end else len(markdown)
        yield match["name"], match["argument"].strip(), match.start(), stop
        position = stop
