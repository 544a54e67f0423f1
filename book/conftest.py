"""How the stored outputs of a chapter are compared with a new run: `pytest --nbval --nbval-current-env book`.

nbval compares text exactly.  Here text and integers are compared exactly, and other numbers within a relative
tolerance or one unit of their last printed digit.  The tolerance is 1e-3, or the cell's own (tag `nbval-rtol-1e-2`,
or `nbval-exact` for none); the variable NBVAL_RTOL widens both, for other hardware.

A chapter whose data is not on this machine runs on what it takes instead, and its outputs are not compared.  A cell
that was never run is refused, and so is a chapter that takes longer than its budget times
METABOOK_TIME_FACTOR (2 if not set: here a kernel has one thread, and its neighbours the other cores).
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from chapters import absent_data, budget

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
NUMBER = re.compile(
    r"(?P<space>[ \t]*)(?P<number>(?:(?<![\w)\]])[-+−])?(?<![\d.])(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?!\d|\.\d)"
)

os.environ.setdefault("METABOOK_PROGRESS", "0")  # kernels inherit both
for variable in THREADS:
    os.environ.setdefault(variable, "1")


def is_exact(number: str) -> bool:
    """Whether a printed number stands for a count: no digit after a point, and no exponent."""
    return re.fullmatch(r"[-+−]?\d+\.?", number) is not None


def is_near(test: str, reference: str, rtol: float) -> bool:
    """Whether two printed numbers agree within `rtol` of the reference or one unit of the last digit of both."""
    if is_exact(test) or is_exact(reference):
        return test == reference
    a, b = (Decimal(number.replace("−", "-")) for number in (test, reference))
    unit = min(Decimal(1).scaleb(number.as_tuple().exponent) for number in (a, b))
    return abs(a - b) <= max(Decimal(str(rtol)) * abs(b), unit)


def settle(test: Any, reference: Any, rtol: float) -> Any:
    """The new text with each number that is near its stored counterpart replaced by it.

    So equal texts agree, and what still differs is what a reader of the failure should look at.  Blanks before a
    number that is no integer move with it, as columns do when a sign or a digit comes or goes.
    """
    if not isinstance(test, str) or not isinstance(reference, str) or test == reference:
        return test
    new, old = list(NUMBER.finditer(test)), list(NUMBER.finditer(reference))
    if len(new) != len(old):
        return test
    pieces, position = [], 0
    for ours, theirs in zip(new, old, strict=True):
        near = not is_exact(theirs["number"]) and is_near(ours["number"], theirs["number"], rtol)
        pieces += [test[position : ours.start()], (theirs if near else ours)[0]]
        position = ours.end()
    return "".join([*pieces, test[position:]])


def tolerance(tags: list[str]) -> float:
    """The relative tolerance of a cell, from its tags and NBVAL_RTOL.

    Raises:
        ValueError: a tag or the variable does not hold a number.
    """
    if "nbval-exact" in tags:
        return 0.0
    named = [float(tag.removeprefix("nbval-rtol-")) for tag in tags if tag.startswith("nbval-rtol-")]
    return max([*(named or [1e-3]), float(os.environ.get("NBVAL_RTOL", "0"))])


def settle_output(test: dict[str, Any], reference: dict[str, Any], rtol: float) -> None:
    """`settle` the text of a stream, or of each kind of a display, in place."""
    if "text" in test and "text" in reference:
        test["text"] = settle(test["text"], reference["text"], rtol)
    for kind in set(test.get("data", {})) & set(reference.get("data", {})):
        if not kind.startswith("image/") or kind == "image/svg+xml":
            test["data"][kind] = settle(test["data"][kind], reference["data"][kind], rtol)


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> Iterator[Any]:
    """Collect a notebook as a `Chapter` wherever nbval would collect it as its own kind of file."""
    collected = yield
    if file_path.suffix != ".ipynb" or not any(collected):
        return collected
    return [Chapter.from_parent(parent, path=file_path)]


try:
    from nbval.plugin import IPyNbCell, IPyNbFile
except ImportError:  # the library's own tests need no nbval
    IPyNbCell = IPyNbFile = object  # type: ignore[assignment, misc]


class Chapter(IPyNbFile):  # type: ignore[misc, valid-type]
    """A notebook: its cells, then its time."""

    seconds = 0.0
    cells_run = 0

    def collect(self) -> Iterator[pytest.Item]:
        """One item for each code cell, and one for the budget of time."""
        cells = list(super().collect())
        absent = absent_data(self.nb)
        if absent:
            yield Absent.from_parent(self, name="data", absent=absent)
        for cell in cells:
            cell.options["check"] = cell.options["check"] and not absent
            yield Cell.from_parent(self, name=cell.name, cell_num=cell.cell_num, cell=cell.cell, options=cell.options)
        yield Budget.from_parent(self, name="time", cells=len(cells))


class Cell(IPyNbCell):  # type: ignore[misc, valid-type]
    """A cell that must have been run before it is compared, and is compared with tolerance."""

    def runtest(self) -> None:
        """Run the cell, and take its time."""
        begin = time.perf_counter()
        try:
            if self.cell.execution_count is None:
                self.raise_cell_error("This cell was never run, nothing is compared: python tools/record.py")
            super().runtest()
        finally:
            self.parent.seconds += time.perf_counter() - begin
            self.parent.cells_run += 1

    def compare_outputs(self, test: list[Any], ref: list[Any], skip_compare: Any = None) -> bool:
        """nbval's comparison, after numbers that are near the stored ones have taken their place."""
        rtol = tolerance(self.cell.metadata.get("tags", []))
        if rtol:
            for kind in ("stream", "display"):
                ours, theirs = (
                    [o for o in outs if (o.output_type == "stream") == (kind == "stream")] for outs in (test, ref)
                )
                for new, old in zip(ours, theirs, strict=False):
                    settle_output(new, old, rtol)
        return super().compare_outputs(test, ref, skip_compare)


class Absent(pytest.Item):
    """Says, as a skipped test, that a chapter is run and not compared."""

    def __init__(self, absent: list[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.absent = absent

    def runtest(self) -> None:
        """Skip, and name what is missing."""
        pytest.skip(f"{self.path.stem}: outputs are not compared, {', '.join(self.absent)} is not here (METABOOK_DATA)")

    def reportinfo(self) -> tuple[Path, int, str]:
        """Where the skip is reported."""
        return self.path, 0, f"{self.path.name}: data"


class Budget(pytest.Item):
    """The time that all cells of a chapter took together."""

    def __init__(self, cells: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cells = cells

    def runtest(self) -> None:
        """Fail if the chapter took longer than it may."""
        chapter = self.parent
        if chapter.cells_run < self.cells:
            pytest.skip("only some of the cells were run")
        seconds = budget(chapter.nb)
        factor = float(os.environ.get("METABOOK_TIME_FACTOR", "2"))
        if chapter.seconds > seconds * factor:
            pytest.fail(f"took {chapter.seconds:.0f} s, more than {seconds} s times {factor:g}", pytrace=False)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Where a failure is reported."""
        return self.path, 0, f"{self.path.name}: time"
