"""`python -m benchmarks.memory`: peak memory of Conv4 MAML against inner steps and against the chunk.

The same workers as in `python -m benchmarks`, one process per figure, with the naive loop beside.  Memory is what a
step adds to what the process held before its first step.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks import machine, report
from benchmarks.contest import Result, run_row
from benchmarks.contestants import CONTESTANTS, REFERENCE, Contestant
from benchmarks.workloads import Workload

CONV4 = Workload("", "maml", "conv4", tasks=16)
STEPS, CHUNKS = (1, 2, 5, 10, 20), (1, 2, 4, 8, 16)
RECOMPUTED = Contestant("metabook recomputed", "metabook", options={"recompute": True})
MEASURED = [
    REFERENCE,
    next(c for c in CONTESTANTS if c.name == "metabook"),
    RECOMPUTED,
    next(c for c in CONTESTANTS if c.name == "higher"),
    next(c for c in CONTESTANTS if c.name == "learn2learn"),
]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write.  Returns 1 if anybody disagreed or failed, else 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description="Peak memory of Conv4 MAML")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="cores for each contestant; all of them")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, help="inner steps, in chunks of 4 tasks")
    parser.add_argument("--chunks", type=int, nargs="*", default=CHUNKS, help="tasks at a time, at 5 inner steps")
    parser.add_argument("--tasks", type=int, default=16)
    parser.add_argument("--json", type=Path, help="where to write the results, after every row")
    given = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(given)
    about = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(
            ["python", "-m", "benchmarks.memory", *(sys.argv[1:] if arguments is None else arguments)]
        ),
        "machine": machine.describe(options.device, options.threads),
    }
    conv4 = replace(CONV4, tasks=options.tasks)
    works = [
        (replace(conv4, name=f"inner steps {s}, chunk 4", inner_steps=s, chunk=4), MEASURED) for s in options.steps
    ]
    works += [
        (replace(conv4, name=f"inner steps 5, chunk {c}", chunk=c), MEASURED[:3])
        for c in options.chunks
        if (c, 5) not in [(4, s) for s in options.steps]
    ]
    rows = []
    print("peak memory, MB (seconds per step)")
    print(f"{'':26}" + "".join(f"{c.name:>22}" for c in MEASURED))
    for work, measured in works:
        row = run_row(work, measured, rounds=1, seconds=0.1, device=options.device, threads=options.threads)
        rows.append(row)
        cells = [_cell(row.results.get(contestant.name)) for contestant in MEASURED]
        print(f"{work.name:26}" + "".join(f"{cell:>22}" for cell in cells), flush=True)
        if options.json:
            report.write(options.json, report.record(rows, **about))
    failures = [line for row in rows for line in row.failures]
    print(*(f"FAILED: {line}" for line in failures), sep="\n", file=sys.stderr)
    return 1 if failures else 0


def _cell(result: Result | None) -> str:
    return f"{result.memory / 1e6:,.0f} ({result.seconds[0]:.2f})" if result and result.seconds else "-"


if __name__ == "__main__":
    sys.exit(main())
