"""What the contest came to: a table to read and a file to keep."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.contest import Row
from benchmarks.contestants import Contestant


def table(rows: Sequence[Row], contestants: Sequence[Contestant], peak: float) -> str:
    """One table: a row per workload, a column per contestant, and in a row one line per quantity."""
    names = [c.name for c in contestants]
    labels = ["tasks per second", "peak memory, MB", "of the matrix peak, %", "sampling, % of a step"]
    labels += [f"{c.name} / this one" for c in contestants if c.ours]
    first = max(len(label) for label in labels) + 2
    heads = [_wrapped(name) for name in names]
    widths = [max(10, *map(len, head)) for head in heads]
    lines = []
    for level in range(max(map(len, heads))):
        cells = [head[level] if level < len(head) else "" for head in heads]
        lines.append(_line("", cells, first, widths))
    for row in rows:
        lines += ["", row.work.name]
        of = row.results
        lines.append(_line(labels[0], [_number(_of(of, n, "tasks_per_second")) for n in names], first, widths))
        lines.append(_line(labels[1], [_number(_of(of, n, "memory"), 1e-6) for n in names], first, widths))
        share = 100 * row.operations / peak if row.operations else None
        if share:
            cells = [_number(_of(of, n, "tasks_per_second"), share) for n in names]
            lines.append(_line(labels[2], cells, first, widths))
        if row.work.trains:
            lines.append(_line(labels[3], [_number(_of(of, n, "sampling"), 100) for n in names], first, widths))
        for ours, ratios in row.ratios.items():
            cells = [f"{ratios[n]:.2f}x" if n in ratios else "" for n in names]
            lines.append(_line(f"{ours} / this one", cells, first, widths))
    notes = sorted({f"{name}: {r.absent}" for row in rows for name, r in row.results.items()
                    if r.absent and not r.failed and r.absent != "has none"})  # fmt: skip
    if notes:
        lines += ["", "Absent:", *notes]
    return "\n".join(line.rstrip() for line in lines)


def record(rows: Sequence[Row], **about: object) -> dict:
    """Everything, as the JSON file has it."""
    return {
        **about,
        "rows": [
            {
                "workload": asdict(row.work),
                "operations_per_task": row.operations,
                "results": {name: asdict(result) for name, result in row.results.items()},
                "ratios": row.ratios,
            }
            for row in rows
        ],
    }


def write(path: Path, results: dict) -> None:
    """Write the file as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(json.dumps(results, indent=1) + "\n")
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _of(results, name, what):
    return getattr(results[name], what) if name in results else None


def _line(label: str, cells: Sequence[str], first: int, widths: Sequence[int]) -> str:
    return f"  {label:{first}}" + "".join(f"{cell:>{width + 2}}" for cell, width in zip(cells, widths, strict=True))


def _number(value: float | None, unit: float = 1.0) -> str:
    if value is None:
        return "-"
    value *= unit
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _wrapped(name: str) -> list[str]:
    """A head of several lines: the words of "metabook compiled + reuse_memory" below one another."""
    return name.replace("+ ", "+\u00a0").split(" ")
