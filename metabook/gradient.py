"""The meta-gradient of a batch of tasks: whole, or chunk by chunk within bounded memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from metabook.episode import Episode
from metabook.learner import Learner, per_task_score


def meta_gradient(learner: Learner, chunk: int | None = None) -> Callable[[Episode], Tensor]:
    """A function that adds the gradient of the mean meta-loss of an episode to the `.grad` of the learner.

    Args:
        learner: whose parameters receive the gradient.
        chunk: tasks differentiated at a time; all of them by default.  It bounds the memory; the gradient is the same.

    Returns:
        `accumulate(episode) -> (2,)`: mean loss and mean score over tasks, on the learner's device.  Nothing in it
        waits for the device.
    """

    def accumulate(episode: Episode) -> Tensor:
        total = torch.zeros(2, device=episode.support.x.device)
        for part in episode.split(chunk or episode.tasks):
            loss, prediction = learner.loss_and_prediction(part)
            share = part.tasks / episode.tasks
            (share * loss).backward()
            score = per_task_score(prediction.detach(), part.query.y).mean()
            total += share * torch.stack([loss.detach(), score]).to(total)
        return total

    return accumulate
