"""The contest of a row: who agrees, and who is how fast, measured in turns.

One process per contestant lives as long as its row; beside a GPU they get ready at the same time.  In every round each
of them has one turn, so that whatever else the machine does hits all alike, and a ratio is the median over rounds of
the ratio within a round.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from statistics import median

import numpy as np
import torch

from benchmarks.contestants import Contestant
from benchmarks.worker import serve
from benchmarks.workloads import EVALUATION, SAMPLING, Workload, episodes, initial_weights

TOLERANCE = 1e-8  # largest difference, in float64, as a part of the largest value


class Worker:
    """The parent's end of a worker process: `worker("command", *arguments)` is its answer, `(kind, result)`."""

    def __init__(self, contestant: Contestant, work: Workload, weights: dict, device: str, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=serve, args=(theirs, contestant, work, weights, device, threads), daemon=True
        )
        self.process.start()
        theirs.close()

    def __call__(self, command: str, *arguments) -> tuple[str, object]:
        try:
            self.pipe.send((command, *arguments))
            return self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(5)
            return "error", f"the process ended, exit code {self.process.exitcode} (-9: killed, for memory perhaps)"

    def close(self) -> None:
        """End the process."""
        try:
            self.pipe.send(None)
        except OSError:
            pass
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()


@dataclass
class Result:
    """What one contestant did at one workload.

    seconds: per step, round by round.
    tasks_per_second: of the median step.
    memory: peak during steps, less what the process held before the first; bytes.
    sampling: seconds to draw an episode with metabook as a part of the seconds of a step, medians.
    deviation: largest difference from the reference in float64, as a part of the largest value.
    absent: why there is nothing above; empty for those who competed.
    failed: whether that is an error.
    """

    seconds: list[float] = field(default_factory=list)
    tasks_per_second: float | None = None
    memory: int | None = None
    sampling: float | None = None
    deviation: float | None = None
    absent: str = ""
    failed: bool = False


@dataclass
class Row:
    """A workload and its results by contestant.

    operations: floating-point operations per task that the naive loop counts; None where it was not there.
    ratios: of ours to each other one, `ratios[ours][other]`, above one where ours is faster.
    """

    work: Workload
    results: dict[str, Result]
    operations: float | None = None
    ratios: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def failures(self) -> list[str]:
        """One line for each contestant that failed."""
        return [f"{self.work.name}: {name}: {r.absent}" for name, r in self.results.items() if r.failed]


def run_row(
    work: Workload,
    contestants: Sequence[Contestant],
    *,
    rounds: int = 7,
    seconds: float = 1.0,
    device: str = "cpu",
    threads: int = 1,
    hire: Callable[..., Worker] = Worker,
    say: Callable[[str], None] = lambda line: None,
) -> Row:
    """Check that all contestants agree with the first of them, then time those that do.

    Args:
        work: the row.
        contestants: the first is the reference.
        rounds: turns of each contestant.
        seconds: about how long a turn is; it has at least one step.
        device: "cpu" or "cuda".
        threads: cores that each may use.
        hire: makes a worker of a contestant; tests bring their own.
        say: is told what goes on.
    """
    weights, results = initial_weights(work), {}
    first = next(episodes(work, seed=1)).split(25)[0] if work.method == EVALUATION else next(episodes(work, seed=1))
    arrays = [_double(t) for part in first for t in part]
    del first
    team: dict[str, Worker] = {}
    row = Row(work, results)
    try:
        for contestant in contestants:  # all at once: they load their libraries meanwhile
            if contestant.installed:
                team[contestant.name] = hire(contestant, work, weights, device, threads)
            else:
                results[contestant.name] = Result(absent=f"not installed: {contestant.install}")
        expected = None

        def prepare(contestant: Contestant) -> tuple[Result, list | None]:
            """Agreement, then warm-up: the result so far, and what all must agree on."""
            worker = team[contestant.name]
            say(f"{work.name}: {contestant.name}: float64")
            kind, answer = worker("check", arrays)
            if kind != "ok":
                return Result(absent=answer, failed=kind == "error"), None
            result = _agreement(answer, expected or answer, contestants[0].name)
            if result.failed:
                return result, None
            if contestant is contestants[0] and work.method != SAMPLING:
                row.operations = worker("operations")[1] or None
            say(f"{work.name}: {contestant.name}: warm-up")
            kind, trouble = worker("warm_up")
            return (result if kind == "ok" else Result(absent=trouble, failed=kind == "error")), answer

        waiting = [c for c in contestants if c.name in team]
        while waiting and expected is None:  # whoever comes first says what is right
            first = waiting.pop(0)
            results[first.name], expected = prepare(first)
        with ThreadPoolExecutor(1 if device == "cpu" else max(1, len(waiting))) as together:
            outcomes = together.map(prepare, waiting)
            results.update({c.name: result for c, (result, _) in zip(waiting, outcomes, strict=True)})
        for name in [name for name in team if results[name].absent]:
            team.pop(name).close()
        turns: dict[str, list[dict]] = {name: [] for name in team}
        for number in range(rounds):
            for name in rotated(list(team), number):
                say(f"{work.name}: round {number + 1} of {rounds}: {name}")
                kind, answer = team[name]("turn", seconds)
                if kind == "ok":
                    turns[name].append(answer)
                else:
                    results[name] = Result(absent=answer, failed=True)
                    turns.pop(name)
                    team.pop(name).close()
    finally:
        for worker in team.values():
            worker.close()
    for name, taken in turns.items():
        _summarise(results[name], taken, work.tasks)
    row.ratios = {c.name: _ratios(results, c.name, contestants) for c in contestants if c.ours and c.name in turns}
    return row


def rotated(names: list[str], number: int) -> list[str]:
    """The order of a round: each begins with another one."""
    shift = number % max(len(names), 1)
    return names[shift:] + names[:shift]


def _double(t: torch.Tensor) -> np.ndarray:
    return (t.double() if t.is_floating_point() else t).cpu().numpy()


def _agreement(answer: list[np.ndarray], expected: list[np.ndarray], reference: str) -> Result:
    if [a.shape for a in answer] != [e.shape for e in expected]:
        return Result(absent=f"its result has other shapes than that of {reference}", failed=True)
    scale = max(float(np.abs(e).max()) for e in expected)
    difference = max(float(np.abs(a - e).max()) for a, e in zip(answer, expected, strict=True))
    if not difference <= TOLERANCE * scale:  # also when it is not a number
        return Result(
            deviation=difference / scale,
            absent=f"disagrees with {reference} in float64: largest difference {difference:.3g}, "
            f"allowed {TOLERANCE:g} of the largest value {scale:.3g}",
            failed=True,
        )
    return Result(deviation=difference / scale if scale else 0.0)


def _summarise(result: Result, taken: list[dict], tasks: int) -> None:
    result.seconds = [turn["step"] for turn in taken]
    result.tasks_per_second = tasks / median(result.seconds)
    result.memory = max(turn["memory"] for turn in taken)
    result.sampling = median(turn["draw"] for turn in taken) / median(result.seconds)


def _ratios(results: dict[str, Result], ours: str, contestants: Sequence[Contestant]) -> dict[str, float]:
    """Median over rounds of the ratio within a round."""
    mine = results[ours].seconds
    others = {c.name: results[c.name].seconds for c in contestants if c.name != ours and results[c.name].seconds}
    return {
        name: median(theirs / own for theirs, own in zip(seconds, mine, strict=True))
        for name, seconds in others.items()
    }
