"""Tasks whose loss is a quadratic bowl: every quantity of an optimisation-based method has a closed form."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from metabook.episode import Episode, Set
from metabook.tasks.distribution import TaskDistribution, check_counts


class Bowls(NamedTuple):
    """Parameters of a batch of quadratics."""

    centre: Tensor  # (tasks, features)
    hessian: Tensor  # (tasks, features, features)


class Quadratics(TaskDistribution):
    """Least-squares tasks whose mean squared error is exactly `0.5 (w - centre)' H (w - centre)`.

    The model is linear without bias, `y = x . w`.  The inputs of a task are chosen so that its Hessian has
    eigenvalues uniform in `curvature` along random directions; centres are standard normal.  Support and query
    hold the same bowl.

    Args:
        features: dimension of `w`; also the number of examples of each set.
        curvature: smallest and largest eigenvalue of the Hessian.
        device, dtype: where and in which precision episodes are drawn.
    """

    def __init__(
        self,
        features: int = 2,
        curvature: tuple[float, float] = (0.5, 2.0),
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float64,
    ) -> None:
        check_counts(features=features)
        if not 0 < curvature[0] <= curvature[1]:
            raise ValueError(f"curvature needs 0 < smallest <= largest eigenvalue, got {curvature}")
        self.features, self.curvature = features, curvature
        self.device, self.dtype = torch.device(device), dtype

    def __repr__(self) -> str:
        return f"Quadratics({self.features} features, curvature {self.curvature[0]:g} to {self.curvature[1]:g})"

    def sample(self, n: int, generator: torch.Generator) -> Episode:
        """Draw `n` bowls: inputs `(n, features, features)`, values `(n, features, 1)`."""
        return self.episode(self.bowls(n, generator))

    def bowls(self, n: int, generator: torch.Generator) -> Bowls:
        """Draw the centres and Hessians of `n` tasks."""
        self._check(n, generator)
        d, (low, high) = self.features, self.curvature
        centre, basis = self._normal((n, d), generator), self._normal((n, d, d), generator)
        eigenvalues = low + (high - low) * torch.rand(
            (n, 1, d), generator=generator, device=self.device, dtype=self.dtype
        )
        directions = torch.linalg.qr(basis).Q
        return Bowls(centre, directions * eigenvalues @ directions.mT)

    def episode(self, bowls: Bowls) -> Episode:
        """The least-squares problem of each bowl: `x' x = features * H / 2` and `y = x . centre`."""
        root = torch.linalg.cholesky(bowls.hessian).mT  # root' root = H
        x = root * (self.features / 2) ** 0.5
        part = Set(x, x @ bowls.centre[:, :, None])
        return Episode(part, part)

    def _normal(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randn(shape, generator=generator, device=self.device, dtype=self.dtype)
