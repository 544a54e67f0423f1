"""Linear tasks with Gaussian weights and Gaussian noise: the family in which the best learner is known exactly."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from metabook.episode import Episode, Set
from metabook.tasks.distribution import TaskDistribution, check_counts


class Posterior(NamedTuple):
    """Gaussian beliefs about the weights of each task."""

    mean: Tensor  # (tasks, features)
    covariance: Tensor  # (tasks, features, features)


class LinearGaussian(TaskDistribution):
    """`w ~ N(prior_mean, prior_std^2 I)`, `x ~ N(0, I)`, `y = w . x + N(0, noise^2)`.

    Args:
        features: dimension of `w` and `x`.
        shots: support examples per task.
        queries: query examples per task.
        prior_mean: mean of every weight.
        prior_std: standard deviation of the weights between tasks.
        noise: standard deviation of the targets.
        device, dtype: where and in which precision episodes are drawn.
    """

    def __init__(
        self,
        features: int = 8,
        shots: int = 5,
        queries: int = 15,
        prior_mean: float = 1.0,
        prior_std: float = 1.0,
        noise: float = 0.5,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        check_counts(features=features, shots=shots, queries=queries)
        if prior_std <= 0 or noise <= 0:
            raise ValueError(f"prior_std and noise must be positive, got {prior_std} and {noise}")
        self.features, self.shots, self.queries = features, shots, queries
        self.prior_mean, self.prior_std, self.noise = prior_mean, prior_std, noise
        self.device, self.dtype = torch.device(device), dtype

    def __repr__(self) -> str:
        return f"LinearGaussian({self.features} features, {self.shots}-shot, {self.queries} queries)"

    def sample(self, n: int, generator: torch.Generator) -> Episode:
        """Draw `n` tasks: inputs `(n, examples, features)`, values `(n, examples, 1)`."""
        return self.episode(self.weights(n, generator), generator)

    def weights(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw the weights of `n` tasks, `(n, features)`."""
        self._check(n, generator)
        return self.prior_mean + self.prior_std * self._normal((n, self.features), generator)

    def episode(self, weights: Tensor, generator: torch.Generator) -> Episode:
        """Draw support and query examples of given weights."""
        return Episode(*(self._examples(weights, count, generator) for count in (self.shots, self.queries)))

    def posterior(self, support: Set) -> Posterior:
        """Beliefs after the support set, by conjugacy (Bishop, 2006, equations 3.50 and 3.51)."""
        x, y = support  # (tasks, examples, features), (tasks, examples, 1)
        identity = torch.eye(self.features, dtype=x.dtype, device=x.device)
        precision = identity / self.prior_std**2 + x.mT @ x / self.noise**2
        evidence = self.prior_mean / self.prior_std**2 + x.mT @ y / self.noise**2  # (tasks, features, 1)
        covariance = torch.linalg.inv(precision)
        return Posterior((covariance @ evidence).squeeze(-1), covariance)

    def _examples(self, weights: Tensor, count: int, generator: torch.Generator) -> Set:
        x = self._normal((len(weights), count, self.features), generator)
        noise = self.noise * self._normal((len(weights), count, 1), generator)
        return Set(x, x @ weights[:, :, None] + noise)

    def _normal(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randn(shape, generator=generator, device=self.device, dtype=self.dtype)
