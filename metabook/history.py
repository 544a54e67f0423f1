"""What happened in a run of meta-training: to look at, to plot, to export."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metabook.data.store import write_atomically
from metabook.evaluation import Scores

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

COLUMNS = ("step", "loss", "score", "tasks_per_second", "validation_mean", "validation_ci95")


@dataclass
class History:
    """What happened at every step of a run.

    Attributes:
        loss: meta-loss before the step.
        score: mean query accuracy or mean squared error of the meta-batch, before the step.
        tasks_per_second: throughput of the step (on a device that works ahead of the host, the mean of the few steps
            that were read together); it differs from run to run.
        validation: `(step, Scores)` pairs.
    """

    loss: list[float] = field(default_factory=list)
    score: list[float] = field(default_factory=list)
    tasks_per_second: list[float] = field(default_factory=list)
    validation: list[tuple[int, Scores]] = field(default_factory=list)

    @property
    def steps(self) -> list[int]:
        """Step numbers, from 1."""
        return list(range(1, len(self.loss) + 1))

    @property
    def best(self) -> tuple[int, Scores] | None:
        """The best validation, as `(step, Scores)`: the highest accuracy or the lowest error, the earliest of equals.

        None where nothing was validated, or every mean was nan.
        """
        known = [(step, scores) for step, scores in self.validation if not math.isnan(scores.mean)]
        return max(known, key=lambda entry: _goodness(entry[1]), default=None)

    def plot(self, ax: Any = None) -> Any:
        """Draw training and validation scores over steps (the loss where nothing was validated); returns the axes."""
        from metabook.plotting import plot_history  # matplotlib is loaded when something is drawn

        return plot_history(self, ax=ax)

    def to_csv(self, path: str | Path) -> None:
        """Write one line per step: step, loss, score, tasks_per_second, validation_mean, validation_ci95.

        The last two are empty where nothing was validated.  Numbers are written so that reading them gives the same
        float again.  The file appears as a whole, or not at all.

        Raises:
            OSError: the folder cannot be written to.
        """
        validated = {step: (scores.mean, scores.ci95) for step, scores in self.validation}
        columns = (self.steps, self.loss, self.score, self.tasks_per_second)

        def write(part: Path) -> None:
            with part.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(COLUMNS)
                for step, *numbers in zip(*columns, strict=True):
                    writer.writerow([step, *numbers, *validated.get(step, ("", ""))])

        write_atomically(Path(path), write)


def _goodness(scores: Scores) -> float:
    return scores.mean if scores.metric == "accuracy" else -scores.mean


def tensorboard_writer(folder: str | Path, done: int) -> SummaryWriter:
    """A writer of live scalars, which hides what an earlier life of the run had written beyond its `done` steps.

    Raises:
        ImportError: tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "meta_train(..., tensorboard=folder) needs the package tensorboard, which is not installed; "
            'run pip install "metabook-learning[tensorboard]", or leave tensorboard out'
        ) from error
    return SummaryWriter(str(folder), purge_step=done + 1 if done else None, flush_secs=10)
