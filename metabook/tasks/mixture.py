"""Three families in one distribution: sine waves, lines and quadratics, the setting of multimodal meta-learning.

R. Vuorio, S.-H. Sun, H. Hu, J. J. Lim, "Multimodal Model-Agnostic Meta-Learning via Task-Aware Modulation", NeurIPS
2019, meta-learn on such a mixture.  Every function here is a sum of the same five terms,

    y = w . (1, x, x^2, sin x, cos x) + noise

and its family decides which of the weights are not zero, so that who knows the family has a least-squares problem.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from metabook.episode import Episode, Set
from metabook.tasks.distribution import TaskDistribution, check_counts


class Functions(NamedTuple):
    """Parameters of a batch of functions."""

    family: Tensor  # (tasks,) index into `Mixture.families`
    weights: Tensor  # (tasks, 5) of 1, x, x^2, sin x and cos x


class Mixture(TaskDistribution):
    """Each task is drawn from one of the families, all equally likely; inputs are uniform in [-5, 5].

    - sinusoid: `a sin(x - p)`, a in [0.1, 5], p in [0, pi], as in `Sinusoids`
    - line: `a x + b`, a in [-1, 1], b in [-2, 2]
    - quadratic: `a (x - c)^2 + b`, a in [0.05, 0.15] with either sign, b and c in [-2, 2]

    All parameters are uniform in their ranges, which are such that the mean square of y is about 4 in each family.

    Args:
        families: names of the families to draw from.
        shots: support points per task.
        queries: query points per task.
        noise: standard deviation of the targets.
        device: where episodes are drawn.

    Raises:
        ValueError: no family, one named twice, or one that does not exist.
    """

    terms = {"sinusoid": (3, 4), "line": (0, 1), "quadratic": (0, 1, 2)}  # the weights that are not zero
    inputs = (-5.0, 5.0)

    def __init__(
        self,
        families: Sequence[str] = ("sinusoid", "line", "quadratic"),
        shots: int = 10,
        queries: int = 10,
        noise: float = 0.0,
        device: str | torch.device = "cpu",
    ) -> None:
        check_counts(shots=shots, queries=queries)
        if isinstance(families, str) or not families or len({*families} & {*self.terms}) != len(families):
            raise ValueError(f"families must be different names out of {', '.join(self.terms)}, got {families!r}")
        if noise < 0:
            raise ValueError(f"noise is a standard deviation and cannot be negative, got {noise}")
        self.families, self.shots, self.queries, self.noise = tuple(families), shots, queries, noise
        self.device = torch.device(device)

    def __repr__(self) -> str:
        names = " + ".join(self.families)
        return f"Mixture({names}, {self.shots}-shot, {self.queries} queries, noise {self.noise:g})"

    def sample(self, n: int, generator: torch.Generator) -> Episode:
        """Draw `n` functions and their points: inputs and values `(n, points, 1)`."""
        return self.episode(self.functions(n, generator), generator)

    def functions(self, n: int, generator: torch.Generator) -> Functions:
        """Draw the families and the weights of `n` tasks."""
        self._check(n, generator)
        family = torch.randint(len(self.families), (n,), generator=generator, device=self.device)
        uniform = torch.rand((n, 3), generator=generator, device=self.device)
        drawn = torch.stack([getattr(self, f"_{name}")(*uniform.T) for name in self.families])  # (families, n, 5)
        return Functions(family, drawn[family, torch.arange(n, device=self.device)])

    def episode(self, functions: Functions, generator: torch.Generator) -> Episode:
        """Draw support and query points of given functions."""
        return Episode(*(self._points(functions, count, generator) for count in (self.shots, self.queries)))

    @staticmethod
    def features(x: Tensor) -> Tensor:
        """The five terms of the functions: `(..., points, 1) -> (..., points, 5)`."""
        return torch.cat([torch.ones_like(x), x, x.square(), x.sin(), x.cos()], dim=-1)

    @classmethod
    def values(cls, functions: Functions, x: Tensor) -> Tensor:
        """The noiseless functions at `x (tasks, points, 1)` or `(points, 1)`: `(tasks, points, 1)`."""
        return cls.features(x) @ functions.weights[:, :, None]

    @staticmethod
    def _sinusoid(u: Tensor, v: Tensor, _: Tensor) -> Tensor:
        amplitude, phase = 0.1 + 4.9 * u, math.pi * v
        zero = torch.zeros_like(u)
        return torch.stack([zero, zero, zero, amplitude * phase.cos(), -amplitude * phase.sin()], dim=-1)

    @staticmethod
    def _line(u: Tensor, v: Tensor, _: Tensor) -> Tensor:
        zero = torch.zeros_like(u)
        return torch.stack([4 * v - 2, 2 * u - 1, zero, zero, zero], dim=-1)

    @staticmethod
    def _quadratic(u: Tensor, v: Tensor, w: Tensor) -> Tensor:
        side = 2 * u - 1  # its sign is that of the curvature, its size how strong that is
        curvature = side.sign() * (0.05 + 0.1 * side.abs())
        centre, height, zero = 4 * v - 2, 4 * w - 2, torch.zeros_like(u)
        constant = curvature * centre.square() + height
        return torch.stack([constant, -2 * curvature * centre, curvature, zero, zero], dim=-1)

    def _points(self, functions: Functions, points: int, generator: torch.Generator) -> Set:
        low, high = self.inputs
        shape = (len(functions.family), points, 1)
        x = low + (high - low) * torch.rand(shape, generator=generator, device=self.device)
        y = self.values(functions, x)
        if self.noise:
            y = y + self.noise * torch.randn(shape, generator=generator, device=self.device)
        return Set(x, y)
