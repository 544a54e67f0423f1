"""Sine waves of random amplitude and phase: the regression family of Finn et al. (2017), section 5.1."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from metabook.episode import Episode, Set
from metabook.tasks.distribution import TaskDistribution, check_counts


class Waves(NamedTuple):
    """Parameters of a batch of waves, each `(tasks,)`; the phase in radians."""

    amplitude: Tensor
    phase: Tensor


class Sinusoids(TaskDistribution):
    """`y = amplitude * sin(x - phase) + noise`.

    The amplitude is uniform in [0.1, 5], the phase in [0, pi], and inputs in [-5, 5].

    Args:
        shots: support points per task.
        queries: query points per task.
        noise: standard deviation of the targets, 0 as in the paper.
        device: where episodes are drawn.
    """

    amplitude = (0.1, 5.0)
    phase = (0.0, math.pi)
    inputs = (-5.0, 5.0)

    def __init__(
        self, shots: int = 10, queries: int = 10, noise: float = 0.0, device: str | torch.device = "cpu"
    ) -> None:
        check_counts(shots=shots, queries=queries)
        if noise < 0:
            raise ValueError(f"noise is a standard deviation and cannot be negative, got {noise}")
        self.shots, self.queries, self.noise = shots, queries, noise
        self.device = torch.device(device)

    def __repr__(self) -> str:
        return f"Sinusoids({self.shots}-shot, {self.queries} queries, noise {self.noise:g})"

    def sample(self, n: int, generator: torch.Generator) -> Episode:
        """Draw `n` waves and their points: inputs and values `(n, points, 1)`."""
        return self.episode(self.waves(n, generator), generator)

    def waves(self, n: int, generator: torch.Generator) -> Waves:
        """Draw the parameters of `n` tasks."""
        self._check(n, generator)
        return Waves(*(self._uniform((n,), bounds, generator) for bounds in (self.amplitude, self.phase)))

    def episode(self, waves: Waves, generator: torch.Generator) -> Episode:
        """Draw support and query points of given waves."""
        return Episode(self._points(waves, self.shots, generator), self._points(waves, self.queries, generator))

    @staticmethod
    def values(waves: Waves, x: Tensor) -> Tensor:
        """The noiseless waves at `x (tasks, points, 1)` or `(points, 1)`: `(tasks, points, 1)`."""
        return waves.amplitude[:, None, None] * torch.sin(x - waves.phase[:, None, None])

    def _points(self, waves: Waves, points: int, generator: torch.Generator) -> Set:
        x = self._uniform((len(waves.phase), points, 1), self.inputs, generator)
        y = self.values(waves, x)
        if self.noise:
            y = y + self.noise * torch.randn(y.shape, generator=generator, device=self.device)
        return Set(x, y)

    def _uniform(self, shape: tuple[int, ...], bounds: tuple[float, float], generator: torch.Generator) -> Tensor:
        return torch.empty(shape, device=self.device).uniform_(*bounds, generator=generator)
