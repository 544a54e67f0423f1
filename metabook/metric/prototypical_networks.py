"""Prototypical networks: a class is the mean of its embedded examples, and the nearest mean wins.

J. Snell, K. Swersky, R. Zemel, "Prototypical Networks for Few-shot Learning", NeurIPS 2017.  With an encoder f,

    c_k = mean of f(x_i) over the support examples of class k         (their equation 1)
    p(y = k | x) = softmax over k of  -distance(f(x), c_k)            (their equation 2)

The mean is the right summary where the distance is a Bregman divergence, such as the squared Euclidean (their section
2.3).  The cosine distance is none.

*Refined prototypes.*  M. Ren, E. Triantafillou, S. Ravi, J. Snell, K. Swersky, J. B. Tenenbaum, H. Larochelle, R. S.
Zemel, "Meta-Learning for Semi-Supervised Few-Shot Classification", ICLR 2018.  Unlabelled examples belong to the
classes in shares, as soft k-means has it,

    r_jk = softmax over k of  -distance(f(x_j), c_k)
    c_k  = (n_k c_k + sum_j r_jk f(x_j)) / (n_k + sum_j r_jk)         with n_k labelled examples of class k.

So that examples of other classes do no harm, the paper adds a cluster for them: a wide one at the origin, whose radius
is learned.  Here it is infinitely wide, the same for every embedding: it claims what is farther than `reach` from all
prototypes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabook.episode import Set
from metabook.learner import Learner
from metabook.tasks.distribution import check_counts


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


class CosineDistance(nn.Module):
    """Scaled cosine distance, `scale * (1 - cosine)`.

    The bare cosine distance lies in 0..2, so the softmax over N prototypes gives none of them more than
    e^2 / (e^2 + N - 1), 11 % of 60.  The scale, a positive meta-parameter, removes this ceiling.

    Args:
        scale: to begin with.
        learn: whether the scale is learned.

    Raises:
        ValueError: a scale that is not positive and finite.
    """

    def __init__(self, scale: float = 10.0, learn: bool = True) -> None:
        if not 0 < scale < math.inf:
            raise ValueError(f"scale must be positive and finite, got {scale}")
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)), requires_grad=learn)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """`a (n, d)`, `b (m, d)` -> distances `(n, m)` between the rows."""
        return self.log_scale.exp() * (1 - F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T)


def responsibilities(distances: Tensor, reach: float = math.inf) -> Tensor:
    """The share that each class has in each example.

    Args:
        distances: `(examples, ways)` to the prototypes; inf for a class that takes no part.
        reach: distance at which an example belongs to a class no more than to nobody.

    Returns:
        `(examples, ways)`, the softmax of minus the distances.  A row sums to 1 where the reach is infinite; elsewhere
        the rest is nobody's.
    """
    nobody = torch.full_like(distances[:, :1], reach)
    return (-torch.cat([distances, nobody], dim=1)).softmax(-1)[:, :-1]


class Prototypes(NamedTuple):
    """What one task leaves behind."""

    centres: Tensor  # (ways, features)
    counts: Tensor  # (ways,), examples of each class, unlabelled ones by their share; 0 for an absent class


class PrototypicalNetwork(Learner):
    """Nearest class mean in a learned embedding; its state is the prototypes.

    Args:
        encoder: maps `(n, *features)` to embeddings `(n, d)`.
        ways: the most classes an episode may have.  A class without support examples is never predicted, so a
            learner trained on 60 ways also serves episodes of 5.
        distance: maps embeddings `(n, d)` and prototypes `(ways, d)` to distances `(n, ways)`: `squared_distances`,
            `CosineDistance()`, or another function or module.
    """

    def __init__(
        self, encoder: nn.Module, ways: int, distance: Callable[[Tensor, Tensor], Tensor] = squared_distances
    ) -> None:
        super().__init__(ways)
        self.encoder, self.distance = encoder, distance

    def adapt(self, support: Set) -> Prototypes:
        """The prototypes of one task."""
        embeddings = self.encoder(support.x)
        counts = F.one_hot(support.y, self.ways).sum(0).to(embeddings)
        return Prototypes(prototypes(embeddings, support.y, self.ways), counts)

    def refine(self, state: Prototypes, x: Tensor, steps: int = 1, reach: float = math.inf) -> Prototypes:
        """Let unlabelled examples of the same task move its prototypes, by soft k-means.

        With squared distances and no reach, every step raises the likelihood of all examples under equally frequent
        Gaussians of covariance I/2 around the prototypes: it is expectation maximisation.

        Args:
            state: of `adapt`, or of an earlier `refine`, whose examples then keep their shares.
            x: `(examples, *features)`.
            steps: repetitions; each divides the examples anew.
            reach: distance at which an example belongs to a class no more than to nobody; see `responsibilities`.

        Raises:
            ValueError: fewer than one step, or a reach that is not positive.
        """
        check_counts(steps=steps)
        if not reach > 0:
            raise ValueError(f"reach must be a positive distance or infinite, got {reach}")
        embeddings, refined = self.encoder(x), state
        for _ in range(steps):
            shares = responsibilities(self._distances(refined, embeddings), reach)  # (examples, ways)
            counts = state.counts + shares.sum(0)
            sums = state.counts[:, None] * state.centres + shares.T @ embeddings
            refined = Prototypes(sums / counts.clamp(min=1)[:, None], counts)
        return refined

    def predict(self, state: Prototypes, x: Tensor) -> Tensor:
        """Logits: minus the distance to each prototype, `(queries, ways)`; -inf for an absent class."""
        return -self._distances(state, self.encoder(x))

    def _distances(self, state: Prototypes, embeddings: Tensor) -> Tensor:
        return torch.where(state.counts > 0, self.distance(embeddings, state.centres), torch.inf)
