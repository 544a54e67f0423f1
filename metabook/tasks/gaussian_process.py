"""Functions drawn from Gaussian processes: the family in which the best prediction is known for every kernel.

C. E. Rasmussen, C. K. I. Williams, "Gaussian Processes for Machine Learning", MIT Press 2006.  With a kernel k and
noise of variance s^2, the values at any inputs are jointly normal, and so is what is left to know after a support set
(their equations 2.22 to 2.24, for noisy targets):

    mean = K_*S (K_SS + s^2 I)^-1 y_S
    cov  = K_** + s^2 I - K_*S (K_SS + s^2 I)^-1 K_S*
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from metabook.episode import Episode, Set
from metabook.tasks.distribution import TaskDistribution, check_counts

JITTER = 1e-9  # added to the variance of every point, so that equal inputs without noise can be factorised


class Kernel(Protocol):
    """The prior covariance of f(a) and f(b), for all pairs of inputs."""

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Inputs `(..., n, features)` and `(..., m, features)` -> `(..., n, m)`."""


@dataclass(frozen=True)
class RBF:
    """`exp(-d^2 / (2 length^2))` for inputs at distance d: very smooth functions (equation 4.9).

    A length `(tasks, 1, 1)` gives each task its own.
    """

    length: float | Tensor = 0.5

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Covariance `(..., n, m)`."""
        return (-0.5 * _squared(a, b) / self.length**2).exp()


@dataclass(frozen=True)
class Matern:
    """`(1 + u) exp(-u)` with `u = sqrt(3) d / length`: functions with one derivative (equation 4.17, nu = 3/2)."""

    length: float = 0.5

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Covariance `(..., n, m)`."""
        u = math.sqrt(3) * _squared(a, b).sqrt() / self.length
        return (1 + u) * (-u).exp()


@dataclass(frozen=True)
class Periodic:
    """`exp(-2 sin^2(pi d / period) / length^2)`: functions that repeat (equation 4.31), of one input."""

    length: float = 1.0
    period: float = 1.0

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Covariance `(..., n, m)`."""
        half = math.pi * _squared(a, b).sqrt() / self.period
        return (-2 * half.sin().square() / self.length**2).exp()


def posterior(kernel: Kernel, noise: float, support: Set, x: Tensor) -> MultivariateNormal:
    """What the noisy targets at `x` may be after a support set: exact, in float64.

    Args:
        kernel: of the function.
        noise: standard deviation of the targets.
        support: inputs `(..., examples, features)` and values `(..., examples, 1)`; `examples` may be 0.
        x: `(..., queries, features)`.

    Returns:
        A normal distribution of `(..., queries)`, jointly over the queries.
    """
    _check_single_output(support.y)
    known, y, x = support.x.double(), support.y.double(), x.double()
    factor = torch.linalg.cholesky(_noisy(kernel(known, known), noise))
    cross = torch.linalg.solve_triangular(factor, kernel(known, x), upper=False)  # (..., examples, queries)
    weights = torch.linalg.solve_triangular(factor, y, upper=False)
    covariance = _noisy(kernel(x, x), noise) - cross.mT @ cross
    return MultivariateNormal((cross.mT @ weights).squeeze(-1), covariance, validate_args=False)


def log_evidence(kernel: Kernel, noise: float, data: Set) -> Tensor:
    """Log-density in nats of all values of a set together, `(...)` (equation 2.30)."""
    _check_single_output(data.y)
    x, y = data.x.double(), data.y.double().squeeze(-1)
    return MultivariateNormal(torch.zeros_like(y), _noisy(kernel(x, x), noise), validate_args=False).log_prob(y)


def marginals(joint: MultivariateNormal | MixtureSameFamily) -> Independent | MixtureSameFamily:
    """What each target may be on its own, `(..., queries)` of `(1,)`, from a joint distribution of `(..., queries)`."""
    if isinstance(joint, MixtureSameFamily):
        each = joint.component_distribution  # (..., kernels) of (queries,)
        weights = joint.mixture_distribution.logits.unsqueeze(-2).expand(*each.loc.mT.shape)
        parts = Normal(each.loc.mT[..., None], each.stddev.mT[..., None], validate_args=False)
        return MixtureSameFamily(Categorical(logits=weights), Independent(parts, 1), validate_args=False)
    return Independent(Normal(joint.loc[..., None], joint.stddev[..., None], validate_args=False), 1)


class GaussianProcess(TaskDistribution):
    """Each task is a function drawn from one of the kernels, all equally likely, seen through normal noise.

    Args:
        kernels: one, or several.
        shots: support points per task; a pair `(low, high)` draws a number in this range for every batch.
        queries: query points per task.
        noise: standard deviation of the targets.
        inputs: bounds between which inputs are uniform.
        device: where episodes are drawn; factorisations are in float64.

    Raises:
        ValueError: counts below one, no kernel, negative noise, or bounds in the wrong order.
    """

    def __init__(
        self,
        kernels: Kernel | Sequence[Kernel] = RBF(),
        shots: int | tuple[int, int] = 10,
        queries: int = 30,
        noise: float = 0.1,
        inputs: tuple[float, float] = (-2.0, 2.0),
        device: str | torch.device = "cpu",
    ) -> None:
        low, high = (shots, shots) if isinstance(shots, int) else shots
        check_counts(shots=low, queries=queries)
        self.kernels = tuple(kernels) if isinstance(kernels, Sequence) else (kernels,)
        if not self.kernels or not all(callable(kernel) for kernel in self.kernels):
            raise ValueError(f"kernels must be one kernel or several, got {kernels!r}")
        if low > high or inputs[0] >= inputs[1]:
            raise ValueError(f"bounds are (low, high) with low first, got shots {shots} and inputs {inputs}")
        if noise < 0:
            raise ValueError(f"noise is a standard deviation and cannot be negative, got {noise}")
        self.shots, self.queries, self.noise, self.inputs = shots, queries, noise, inputs
        self.device = torch.device(device)

    def __repr__(self) -> str:
        names = " + ".join(map(repr, self.kernels))
        return f"GaussianProcess({names}, shots {self.shots}, {self.queries} queries, noise {self.noise:g})"

    def sample(self, n: int, generator: torch.Generator) -> Episode:
        """Draw `n` functions and their points: inputs and values `(n, points, 1)`."""
        self._check(n, generator)
        shots = self.shots
        if not isinstance(shots, int):  # on the host: the number is a shape
            shots = int(torch.randint(shots[0], shots[1] + 1, (), generator=generator, device=self.device))
        low, high = self.inputs
        x = low + (high - low) * torch.rand((n, shots + self.queries, 1), generator=generator, device=self.device)
        y = self.values(x, generator)
        return Episode(Set(x[:, :shots], y[:, :shots]), Set(x[:, shots:], y[:, shots:]))

    def values(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Draw a function for each task and return its noisy values at `x (tasks, points, features)`."""
        which = torch.randint(len(self.kernels), (len(x), 1, 1), generator=generator, device=self.device)
        normal = torch.randn(x.shape[:2], generator=generator, device=self.device, dtype=torch.float64)
        wide = x.double()
        covariance = sum((which == k) * kernel(wide, wide) for k, kernel in enumerate(self.kernels))
        factor = torch.linalg.cholesky(_noisy(covariance, self.noise))
        return (factor @ normal[..., None]).to(x)

    def posterior(self, support: Set, x: Tensor) -> MixtureSameFamily:
        """The best possible prediction of the targets at `x (tasks, queries, features)` by who knows the family.

        Each kernel has its normal posterior; their weights are their posterior probabilities, by the evidence that
        the support set gives for them.  With one kernel there is one component.

        Returns:
            A mixture of normal distributions of `(tasks, queries)`, jointly over the queries.
        """
        each = [posterior(kernel, self.noise, support, x) for kernel in self.kernels]
        mean = torch.stack([p.loc for p in each], dim=-2)  # (tasks, kernels, queries)
        covariance = torch.stack([p.covariance_matrix for p in each], dim=-3)
        evidence = torch.stack([log_evidence(kernel, self.noise, support) for kernel in self.kernels], dim=-1)
        components = MultivariateNormal(mean, covariance, validate_args=False)
        return MixtureSameFamily(Categorical(logits=evidence), components, validate_args=False)


def _squared(a: Tensor, b: Tensor) -> Tensor:
    return (a.unsqueeze(-2) - b.unsqueeze(-3)).square().sum(-1)


def _noisy(covariance: Tensor, noise: float) -> Tensor:
    return covariance + (noise**2 + JITTER) * torch.eye(
        covariance.shape[-1], dtype=covariance.dtype, device=covariance.device
    )


def _check_single_output(y: Tensor) -> None:
    if y.ndim < 2 or y.shape[-1] != 1:
        raise ValueError(f"a Gaussian process has one output, expected values (..., examples, 1), got {tuple(y.shape)}")
