"""`python -m benchmarks`: see README.md in this folder."""

from __future__ import annotations

import argparse
import datetime
import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks import machine, report
from benchmarks.contest import run_row
from benchmarks.contestants import CONTESTANTS, REFERENCE
from benchmarks.workloads import WORKLOADS


def main(arguments: list[str] | None = None) -> int:
    """Run the chosen rows, print the table, write the file.  Returns 1 if anybody disagreed or failed, else 0."""
    options = _parser().parse_args(arguments)
    here = (None, options.device)
    works = [w for w in WORKLOADS if w.device in here and (not options.rows or any(p in w.name for p in options.rows))]
    chosen = [c for c in CONTESTANTS if c.device in here and (not options.contestants or c.name in options.contestants)]
    if not works:
        print("no row has such a name; the rows are:", *(w.name for w in WORKLOADS), sep="\n  ", file=sys.stderr)
        return 2
    if REFERENCE not in chosen:  # all must agree with it
        chosen.insert(0, REFERENCE)
    chunk = options.chunk or (4 if options.device == "cpu" else None)
    works = [replace(w, chunk=chunk) if w.network == "conv4" else w for w in works]
    rounds = options.rounds or (3 if options.quick else 7)
    seconds = options.seconds or (0.5 if options.quick else 1.0)
    about = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "benchmarks", *(sys.argv[1:] if arguments is None else arguments)]),
        "rounds": rounds,
        "seconds": seconds,
        "device": options.device,
        "machine": machine.describe(options.device, options.threads),
        "peak": machine.matrix_peak(options.device, options.threads),
    }
    rows = []
    for work in works:
        rows.append(run_row(work, chosen, rounds=rounds, seconds=seconds, device=options.device,
                            threads=options.threads, say=_say))  # fmt: skip
        about["peak"] = max(about["peak"], machine.matrix_peak(options.device, options.threads, seconds=0.5))
        if options.json:
            report.write(options.json, report.record(rows, **about))
    _say("")
    print(_title(about))
    print(report.table(rows, chosen, about["peak"]))
    failures = [line for row in rows for line in row.failures]
    print(*(f"\nFAILED: {line}" for line in failures), sep="", file=sys.stderr)
    return 1 if failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="metabook and its peers, side by side")
    parser.add_argument("--rows", nargs="+", metavar="PART", help="only rows whose name has one of these parts")
    parser.add_argument("--contestants", nargs="+", metavar="NAME", choices=[c.name for c in CONTESTANTS])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="cores for each contestant; all of them")
    parser.add_argument("--rounds", type=int, help="turns of each contestant; 7")
    parser.add_argument("--seconds", type=float, help="length of a turn; 1")
    parser.add_argument("--chunk", type=int, help="tasks of Conv4 metabook takes at a time; 4 on a CPU, all on a GPU")
    parser.add_argument("--quick", action="store_true", help="3 rounds of half a second")
    parser.add_argument("--json", type=Path, help="where to write the results, after every row")
    return parser


def _title(about: dict) -> str:
    it = about["machine"]
    where = it["gpu"] or f"{it['cpu']}, {it['threads']} of {it['cores']} cores"
    return f"{where}; torch {it['versions']['torch']}; matrix product {about['peak'] / 1e9:,.0f} GFLOP/s in float32"


def _say(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
