"""What one example is in meta-learning: an episode, a support set to learn from and a query set to be judged on.

A batch of tasks is one `Episode` whose tensors have the task dimension first.  Named tuples of tensors pass
through `torch.func.vmap` unchanged, so code written for one task (no task dimension) serves a batch of them.

The dtype of the targets says what they are: integers are classes, floats are values.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Set(NamedTuple):
    """Inputs and their targets.

    x: float `(tasks, examples, *features)`
    y: int64 `(tasks, examples)` with classes 0..ways-1, or float `(tasks, examples, outputs)` with values
    """

    x: Tensor
    y: Tensor


class Episode(NamedTuple):
    """A batch of tasks: what each learner adapts to, and what it must then predict."""

    support: Set
    query: Set

    @property
    def tasks(self) -> int:
        """Number of tasks in the batch."""
        return self.support.x.shape[0]

    def to(self, *args, **kwargs) -> Episode:
        """Move inputs and targets to a device; a floating dtype is applied to everything but class labels."""
        return Episode(*(Set(*(_move(t, *args, **kwargs) for t in part)) for part in self))

    def split(self, tasks: int) -> list[Episode]:
        """Cut the batch into consecutive batches of at most `tasks` tasks."""
        if tasks < 1:
            raise ValueError(f"split needs at least one task per part, got {tasks}")
        columns = [tensor.split(tasks) for part in self for tensor in part]
        return [Episode(Set(sx, sy), Set(qx, qy)) for sx, sy, qx, qy in zip(*columns, strict=True)]


def _move(tensor: Tensor, *args, **kwargs) -> Tensor:
    moved = tensor.to(*args, **kwargs)
    return moved if tensor.is_floating_point() == moved.is_floating_point() else moved.to(tensor.dtype)


def is_classification(y: Tensor) -> bool:
    """Integer targets are classes; floating ones are values."""
    return not y.is_floating_point()


def check_episode(episode: Episode, ways: int | None = None, device: torch.device | None = None) -> None:
    """Raise one clear `ValueError` if the batch cannot be learned from.

    Shapes, dtypes and devices are always checked and cost nothing.  The range of the labels is checked only
    when `ways` is given and the labels are on the CPU: on a GPU it would make the host wait for the device.

    Args:
        episode: batch of tasks, task dimension first.
        ways: number of classes; targets must be labels in 0..ways-1.  None allows values as well.
        device: where the learner's parameters live.
    """
    for name, part in zip(("support", "query"), episode, strict=True):
        _check_set(name, part, ways)
    support, query = episode
    if support.x.shape[0] != query.x.shape[0]:
        raise ValueError(
            f"support and query disagree on the number of tasks (first dimension): "
            f"{support.x.shape[0]} and {query.x.shape[0]}"
        )
    if support.x.shape[2:] != query.x.shape[2:]:
        raise ValueError(
            f"support and query inputs have different features: {tuple(support.x.shape[2:])} and "
            f"{tuple(query.x.shape[2:])}; both must come from the same input space"
        )
    if support.x.dtype != query.x.dtype or support.y.dtype != query.y.dtype:
        raise ValueError(
            f"support and query have different dtypes: x {support.x.dtype} and {query.x.dtype}, "
            f"y {support.y.dtype} and {query.y.dtype}"
        )
    devices = {tensor.device for part in episode for tensor in part} | ({device} if device else set())
    if len(devices) > 1:
        met = ", ".join(sorted(map(str, devices)))
        raise ValueError(
            f"episode and learner must share one device, met {met}; move them with episode.to(device) "
            "and learner.to(device)"
        )


def _check_set(name: str, part: Set, ways: int | None) -> None:
    x, y = part
    if x.ndim < 3:
        raise ValueError(
            f"{name}.x needs shape (tasks, examples, *features), got {tuple(x.shape)}; "
            "add a task dimension with x.unsqueeze(0) if this is a single task"
        )
    if not x.is_floating_point():
        raise ValueError(f"{name}.x must be floating point, got {x.dtype}; convert it, e.g. x.float() / 255")
    if x.shape[0] == 0 or x.shape[1] == 0:
        raise ValueError(f"{name} is empty: x has shape {tuple(x.shape)}, expected at least one task and example")
    if y.shape[:2] != x.shape[:2]:
        raise ValueError(
            f"{name}.y must start with the (tasks, examples) of {name}.x: got y {tuple(y.shape)} for x {tuple(x.shape)}"
        )
    if is_classification(y):
        if y.dtype != torch.int64:
            raise ValueError(f"class labels in {name}.y must be int64, got {y.dtype}; convert with y.long()")
        if y.ndim != 2:
            raise ValueError(f"class labels in {name}.y need shape (tasks, examples), got {tuple(y.shape)}")
        if ways is not None and y.device.type == "cpu":
            check_labels(y, ways, f"{name}.y")
    elif ways is not None:
        raise ValueError(f"{name}.y holds values ({y.dtype}), but the learner needs int64 labels of {ways} classes")
    elif y.ndim < 3:
        raise ValueError(
            f"values in {name}.y need shape (tasks, examples, outputs), got {tuple(y.shape)}; "
            "use y.unsqueeze(-1) for one output"
        )


def check_labels(y: Tensor, ways: int, name: str = "labels") -> None:
    """Raise `ValueError` unless every label lies in 0..ways-1 (reads the values, so it waits for a GPU)."""
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= ways:
        raise ValueError(f"{name} must lie in 0..{ways - 1} for {ways} ways, met values from {low} to {high}")
