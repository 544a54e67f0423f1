"""The files that `experiments/omniglot.py` writes: one for each run, with its protocol and the score of every task.

A file holds the number of right answers of each test task, not only their mean.  So two runs that were tested on the
same episodes can be compared task by task, long after.
"""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from metabook.data.store import write_atomically
from metabook.evaluation import Scores

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Test:
    """One test of a trained learner.

    Attributes:
        ways: classes of a task.
        shots: support images of a class.
        queries: queries of a task, of all classes together.
        statistics: what batch normalisation used: "fixed" ones, so that each query was answered on its own, or those
            of the "batch" of queries; "none" without batch normalisation.
        tasks: the distribution and the seed of the episodes, in words.
        right: right answers in each task.
    """

    __test__ = False  # pytest: this is no test case

    ways: int
    shots: int
    queries: int
    statistics: str
    tasks: str
    right: list[int]

    @property
    def scores(self) -> Scores:
        """Accuracy of each task."""
        return Scores(torch.tensor(self.right, dtype=torch.float64) / self.queries, protocol=self.tasks)


@dataclass(frozen=True)
class Run:
    """One trained learner and its tests.

    Attributes:
        method: e.g. "Prototypical network".
        split: "vinyals" or "lake", as in `metabook.data.load_omniglot`.
        shots: support images of a class in training.
        training: the numbers that make the run what it is: ways, queries, meta_batch, steps, lr and so on.
        seed: of the initial weights and the training episodes.
        seconds: spent in training steps.
        machine: device, threads and versions.
        command: what made it.
        tests: on few-shot episodes.
        official: answers to the official 20 one-shot runs, `"1"` right and `"0"` wrong, 20 for each run; empty where
            the training had seen their characters.
    """

    method: str
    split: str
    shots: int
    training: dict
    seed: int
    seconds: float
    machine: dict
    command: str
    tests: list[Test] = field(default_factory=list)
    official: list[str] = field(default_factory=list)

    @property
    def one_shot_runs(self) -> Scores:
        """Accuracy in each of the 20 official runs.

        Raises:
            ValueError: this run was not tested on them.
        """
        if not self.official:
            raise ValueError(f"{self.method} on the split {self.split} was not tested on the official runs")
        right = torch.tensor([[answer == "1" for answer in run] for run in self.official])
        return Scores(right.double().mean(-1), protocol="official 20-way one-shot runs")

    def test(self, ways: int, shots: int | None = None, statistics: str = "fixed") -> Scores:
        """Scores of one test; `shots` are those of the training by default.

        Raises:
            ValueError: there is no such test.
        """
        shots = self.shots if shots is None else shots
        for test in self.tests:
            if (test.ways, test.shots) == (ways, shots) and test.statistics in (statistics, "none"):
                return test.scores
        known = ", ".join(f"{t.ways}-way {t.shots}-shot {t.statistics}" for t in self.tests)
        raise ValueError(f"{self.method} has no {ways}-way {shots}-shot test with {statistics} statistics, but {known}")

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        text = json.dumps(asdict(self), indent=1)
        for numbers in (test.right for test in self.tests):  # a thousand numbers in one line, not in a thousand
            text = text.replace(json.dumps(numbers, indent=1).replace("\n", "\n   "), json.dumps(numbers))
        write_atomically(path, lambda part: part.write_text(text + "\n", encoding="utf-8"))

    @classmethod
    def read(cls, path: Path) -> Run:
        """Read a file that `write` made.

        Raises:
            ValueError: it is not such a file.
        """
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
            tests = [Test(**test) for test in entries.pop("tests")]
            return cls(**entries, tests=tests)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not the result of a run of experiments/omniglot.py: {error}") from error


def load_runs(folder: Path = FOLDER) -> list[Run]:
    """All runs on Omniglot in a folder, by default those of the library, in the order of their file names."""
    return [Run.read(path) for path in sorted(folder.glob("omniglot-*.json"))]


def paired(a: Scores, b: Scores) -> Scores:
    """Task by task a minus b, for two scores on the same episodes.

    Raises:
        ValueError: they were not measured on the same episodes.
    """
    if a.protocol != b.protocol or len(a.per_task) != len(b.per_task):
        raise ValueError(f"only scores on the same episodes can be paired, got {a.protocol!r} and {b.protocol!r}")
    return Scores(a.per_task - b.per_task, a.metric, f"paired: {a.protocol}")


class Published(NamedTuple):
    """A published accuracy on Omniglot, in per cent, with its half-width where there is one.

    transductive: whether batch normalisation used the statistics of the test batch.
    source: key in the book's bibliography; `table` is the number of its table.
    """

    method: str
    ways: int
    shots: int
    accuracy: float
    ci95: float | None
    transductive: bool
    source: str
    table: int


def published() -> list[Published]:
    """Published results on Omniglot, `published.csv`; most are on the split of Vinyals et al."""
    with (FOLDER / "published.csv").open(newline="", encoding="utf-8") as file:
        return [
            Published(
                row["method"], int(row["ways"]), int(row["shots"]), float(row["accuracy"]),
                float(row["ci95"]) if row["ci95"] else None, row["transductive"] == "yes", row["source"],
                int(row["table"]),
            )
            for row in csv.DictReader(file)
        ]  # fmt: skip
