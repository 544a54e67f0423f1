"""Losses on their way from the device into the history, the bar and TensorBoard, without making a step wait."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm.std import tqdm

from metabook.distributed import Processes
from metabook.evaluation import Scores
from metabook.history import History

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def _steps_between_readings(device: torch.device, seconds_per_step: float) -> int:
    """On the CPU every loss is read at once; elsewhere about every half second, and at least every 50 steps."""
    return 1 if device.type == "cpu" else max(1, min(50, int(0.5 / seconds_per_step)))


class Recorder:
    """Collects `(loss, score)` of each step on the device, and reads several of them together.

    Args:
        history: what is read is appended to it.
        steps: of the whole run.
        meta_batch: tasks per step.
        device: of the learner.
        processes: all read after the same steps.
        bar: shows loss, score and speed.
        writer: of TensorBoard, or None.
    """

    def __init__(
        self,
        history: History,
        *,
        steps: int,
        meta_batch: int,
        device: torch.device,
        processes: Processes,
        bar: tqdm,
        writer: SummaryWriter | None,
    ) -> None:
        self.history, self.steps, self.meta_batch = history, steps, meta_batch
        self.device, self.processes, self.bar, self.writer = device, processes, bar, writer
        self._unread: list[Tensor] = []
        self._interval, self._seconds, self._started = 1, 0.0, 0.0

    def start(self) -> None:
        """A step begins."""
        self._started = time.perf_counter()

    def add(self, outcome: Tensor) -> None:
        """Take loss and score, `(2,)`, of the step; on the CPU they are read before the weights change.

        Raises:
            FloatingPointError: a loss that was read now is not finite.
        """
        self._unread.append(outcome)
        if len(self._unread) >= self._interval:
            self._read()

    def stop(self) -> None:
        """The step is done."""
        self._seconds += time.perf_counter() - self._started
        if not self._unread:
            self._publish()

    def flush(self) -> None:
        """Read what is still on the device, and show it.

        Raises:
            FloatingPointError: one of the losses is not finite.
        """
        if self._unread:
            self.start()
            self._read()
            self.stop()
        if self.writer is not None:
            self.writer.flush()

    def validated(self, step: int, scores: Scores) -> None:
        """Record a validation."""
        self.history.validation.append((step, scores))
        if self.writer is not None:
            self.writer.add_scalar(f"validation/{scores.metric}", scores.mean, step)

    def _read(self) -> None:
        for loss, score in torch.stack(self._unread).tolist():
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"the meta-loss is {loss} at step {len(self.history.loss) + 1} of {self.steps}; lower the outer or "
                    "inner rate, clip the gradient with clip_norm, or look at the episode that this step drew"
                )
            self.history.loss.append(loss)
            self.history.score.append(score)
        self._unread.clear()

    def _publish(self) -> None:
        history, done = self.history, len(self.history.tasks_per_second)
        new = len(history.loss) - done
        history.tasks_per_second += [self.meta_batch * new / self._seconds] * new
        self._interval = _steps_between_readings(self.device, self._seconds / new)
        if self.device.type != "cpu":  # there the speed, and so the interval, differs between processes
            self._interval = self.processes.from_lead(self._interval)
        self._seconds = 0.0
        _show(self.bar, history, new)
        if self.writer is not None:
            for index in range(done, done + new):
                for name in ("loss", "score", "tasks_per_second"):
                    self.writer.add_scalar(f"training/{name}", getattr(history, name)[index], index + 1)


def _show(bar: tqdm, history: History, new: int) -> None:
    recent = slice(-20, None)
    mean = {name: sum(v[recent]) / len(v[recent]) for name, v in vars(history).items() if name != "validation"}
    bar.set_postfix_str(
        f"loss {mean['loss']:.3g}, score {mean['score']:.3g}, {mean['tasks_per_second']:.0f} tasks/s",
        refresh=bar.n + new == bar.total,
    )
    bar.update(new)
