"""Prototypical networks: a class is the mean of its embedded examples, and the nearest mean wins.

J. Snell, K. Swersky, R. Zemel, "Prototypical Networks for Few-shot Learning", NeurIPS 2017.  With an encoder f,

    c_k = mean of f(x_i) over the support examples of class k         (their equation 1)
    p(y = k | x) = softmax over k of  -||f(x) - c_k||^2                (their equation 2)

The mean is the right summary because the squared Euclidean distance is a Bregman divergence (their section 2.3).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabook.episode import Set
from metabook.learner import Learner


def prototypes(embeddings: Tensor, y: Tensor, ways: int) -> Tensor:
    """Mean embedding of each class.

    Args:
        embeddings: `(examples, features)`.
        y: int64 `(examples,)` in 0..ways-1.
        ways: number of classes.

    Returns:
        `(ways, features)`; zeros for a class without examples.
    """
    members = F.one_hot(y, ways).to(embeddings)  # (examples, ways)
    return members.T @ embeddings / members.sum(0).clamp(min=1)[:, None]


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distances between the rows of `a (n, d)` and `b (m, d)`: `(n, m)`."""
    return a.square().sum(-1, keepdim=True) - 2 * a @ b.T + b.square().sum(-1)


class Prototypes(NamedTuple):
    """What one task leaves behind."""

    centres: Tensor  # (ways, features)
    present: Tensor  # bool (ways,), which classes had support examples


class PrototypicalNetwork(Learner):
    """Nearest class mean in a learned embedding; its state is the prototypes.

    Args:
        encoder: maps `(n, *features)` to embeddings `(n, d)`.
        ways: the most classes an episode may have.  A class without support examples is never predicted, so a
            learner trained on 60 ways also serves episodes of 5.
    """

    def __init__(self, encoder: nn.Module, ways: int) -> None:
        super().__init__(ways)
        self.encoder = encoder

    def adapt(self, support: Set) -> Prototypes:
        """The prototypes of one task."""
        present = F.one_hot(support.y, self.ways).sum(0) > 0
        return Prototypes(prototypes(self.encoder(support.x), support.y, self.ways), present)

    def predict(self, state: Prototypes, x: Tensor) -> Tensor:
        """Logits: minus the squared distance to each prototype, `(queries, ways)`; -inf for an absent class."""
        return torch.where(state.present, -squared_distances(self.encoder(x), state.centres), -torch.inf)
