"""The one contract of every method in the book: `adapt` maps a support set to a state, `predict` maps the
state and an input to an output.

Both speak of one task.  The base class lifts them over the task dimension with `torch.func.vmap`, so a reader's
loop is ordinary PyTorch: `learner.meta_loss(episode).backward(); optimizer.step()`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vmap

from metabook.episode import Episode, Set, check_episode, is_classification

State = Any  # fast weights, prototypes, a posterior: whatever one task leaves behind (a tree of tensors)


def task_loss(prediction: Tensor, y: Tensor) -> Tensor:
    """Mean loss over examples: cross-entropy for classes, mean squared error for values.

    Args:
        prediction: logits `(..., ways)` for integer `y`, else values of the shape of `y`.
        y: int64 `(...)` classes, or float `(..., outputs)` values.

    Returns:
        Scalar.  The squared error is averaged over examples and outputs.
    """
    if is_classification(y):
        return F.cross_entropy(prediction.flatten(0, -2), y.flatten())
    if prediction.shape != y.shape:  # broadcasting here would be a silent mistake
        raise ValueError(f"predictions {tuple(prediction.shape)} and values {tuple(y.shape)} differ in shape")
    return F.mse_loss(prediction, y)


class Learner(nn.Module, ABC):
    """A method of meta-learning.  Its parameters are the meta-parameters phi.

    A subclass writes `adapt` and `predict` for one task.  It may override `forward` when all tasks can share
    work, and `loss_and_prediction` when its update is not the gradient of the query loss.
    """

    def __init__(self, ways: int | None = None, loss: Callable[[Tensor, Tensor], Tensor] = task_loss) -> None:
        """
        Args:
            ways: the most classes the learner can tell apart; None if its network or a regression decides.
            loss: of the outer loop, `(prediction, y) -> scalar`.

        Raises:
            ValueError: fewer than two ways.
        """
        if ways is not None and ways < 2:
            raise ValueError(f"a classifier needs at least 2 ways, got {ways}")
        super().__init__()
        self.ways, self.loss = ways, loss

    @abstractmethod
    def adapt(self, support: Set) -> State:
        """Learn one task: `support.x (examples, *features)`, `support.y (examples, ...)` -> state."""

    @abstractmethod
    def predict(self, state: State, x: Tensor) -> Tensor:
        """Answer for one task: state and `x (queries, *features)` -> `(queries, outputs)`."""

    def forward(self, episode: Episode) -> Tensor:
        """Adapt to every task of the batch and predict its queries: `(tasks, queries, outputs)`."""
        return vmap(self._adapt_and_predict, randomness="different")(episode.support, episode.query.x)

    def _adapt_and_predict(self, support: Set, x: Tensor) -> Tensor:
        return self.predict(self.adapt(support), x)

    def meta_loss(self, episode: Episode) -> Tensor:
        """Mean query loss over tasks, a scalar; its `.backward()` is the meta-gradient.

        Raises:
            ValueError: the episode is malformed, or on another device than the learner.
        """
        self.check(episode)
        return self.loss_and_prediction(episode)[0]

    def loss_and_prediction(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """The meta-loss, and the query predictions `(tasks, queries, outputs)` that a training loop reports on.

        The episode was checked before.
        """
        prediction = self(episode)
        return self.loss(prediction, episode.query.y), prediction

    @property
    def transductive(self) -> bool:
        """Whether a prediction depends on the other queries, through batch statistics."""
        return any(getattr(module, "uses_batch_statistics", False) for module in self.modules())

    def check(self, episode: Episode) -> None:
        """Raise one clear `ValueError` if the learner cannot work on this batch."""
        parameter = next(self.parameters(), None)
        check_episode(episode, self.ways, None if parameter is None else parameter.device)
        if parameter is not None and parameter.dtype != episode.support.x.dtype:
            raise ValueError(
                f"inputs are {episode.support.x.dtype} but the learner's parameters are {parameter.dtype}; "
                "convert one of them, e.g. episode.to(torch.float64) or learner.double()"
            )


def per_task_score(prediction: Tensor, y: Tensor) -> Tensor:
    """Score of each task, `(tasks,)`: accuracy (fraction) for classes, mean squared error for values.

    Args:
        prediction: `(tasks, queries, outputs)`.
        y: int64 `(tasks, queries)` or float `(tasks, queries, outputs)`.
    """
    if is_classification(y):
        return (prediction.argmax(-1) == y).to(torch.get_default_dtype()).mean(-1)
    return (prediction - y).square().flatten(1).mean(-1)
