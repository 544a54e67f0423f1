"""Hierarchical Bayes: tasks are drawn from a prior, the prior is learned from tasks, and a learned start acts like one.

Every task t has weights of its own, drawn from a prior that all tasks share; its examples are drawn from the weights:

    w_t ~ N(m, Sigma),    y_t = X_t w_t + noise,    noise ~ N(0, sigma^2 I).

*The posterior* of one task, with S = X'X (D. V. Lindley, A. F. M. Smith, "Bayes Estimates for the Linear Model",
JRSS B 34, 1972):

    V = (I + Sigma S / sigma^2)^-1 Sigma,    mu = m + V X'(y - X m) / sigma^2.

*Empirical Bayes* finds (m, Sigma, sigma) by the marginal likelihood y ~ N(X m, X Sigma X' + sigma^2 I), here with the
EM algorithm (A. P. Dempster, N. M. Laird, D. B. Rubin, "Maximum Likelihood from Incomplete Data via the EM Algorithm",
JRSS B 39, 1977), whose likelihood never falls.  With a single number per task the same idea is the estimator of
W. James and C. Stein, "Estimation with Quadratic Loss", 1961 (B. Efron, C. Morris, JASA 68, 1973).

*A start and k gradient steps* on the mean squared error of n examples, w <- w - A (2/n) X'(X w - y), end exactly at the
maximum a posteriori for the prior N(start, Q), with A = C C' and Z = X C,

    Q = sigma^2 C phi(Z'Z) C',    phi(s) = ((1 - 2 s / n)^-k - 1) / s,    phi(0) = 2 k / n

(R. J. Santos, "Equivalence of Regularization and Truncated Iteration for General Ill-Posed Problems", Linear Algebra
and its Applications 236, 1996; E. Grant et al., "Recasting Gradient-Based Meta-Learning as Hierarchical Bayes",
ICLR 2018).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from metabook.episode import Episode, Set
from metabook.learner import Learner
from metabook.tasks.distribution import check_counts
from metabook.tasks.linear_gaussian import Posterior


class Prior(NamedTuple):
    """What tasks have in common.  Leading dimensions broadcast against those of the tasks' tensors."""

    mean: Tensor  # m (..., features)
    covariance: Tensor  # Sigma (..., features, features), may be singular
    noise: Tensor  # sigma (...), the standard deviation of the targets


def posterior(prior: Prior, support: Set) -> Posterior:
    """Beliefs about each task's weights after its support set.

    Args:
        prior: of all tasks.
        support: `x (..., examples, features)` and `y (..., examples, 1)`.

    Returns:
        mean `(..., features)` and covariance `(..., features, features)`.
    """
    return _learn(prior, support)[0]


def log_marginal(prior: Prior, support: Set) -> Tensor:
    """log p(y | X) of each task, its weights integrated out: the log density of N(X m, X Sigma X' + sigma^2 I) at y.

    Arguments as for `posterior`.

    Returns:
        `(...)`, in nats, summed over the examples of a task.
    """
    return _learn(prior, support)[1]


def _learn(prior: Prior, support: Set) -> tuple[Posterior, Tensor]:
    """The posterior and the log marginal likelihood, from d x d matrices alone."""
    x, y = support
    if y.shape != (*x.shape[:-1], 1) or prior.mean.shape[-1] != x.shape[-1]:
        raise ValueError(
            f"expected x (..., examples, features), y (..., examples, 1) and a prior mean of as many features; got x "
            f"{tuple(x.shape)}, y {tuple(y.shape)}, mean {tuple(prior.mean.shape)}"
        )
    variance = prior.noise**2  # (...)
    grown = torch.eye(x.shape[-1]).to(x) + prior.covariance @ (x.mT @ x) / variance[..., None, None]
    covariance = torch.linalg.solve(grown, prior.covariance.expand_as(grown))
    covariance = (covariance + covariance.mT) / 2
    surprise = y - x @ prior.mean[..., None]  # (..., examples, 1)
    pull = x.mT @ surprise / variance[..., None, None]  # (..., features, 1)
    change = covariance @ pull
    misfit = surprise.square().sum((-2, -1)) / variance - (pull * change).sum((-2, -1))
    volume = torch.linalg.slogdet(grown).logabsdet + x.shape[-2] * (2 * math.pi * variance).log()
    return Posterior(prior.mean + change.squeeze(-1), covariance), -(misfit + volume) / 2


def predictive(belief: Posterior, noise: Tensor, x: Tensor) -> Normal:
    """The distribution of y at new inputs, the weights integrated out.

    Args:
        belief: about the weights, `(..., features)` and `(..., features, features)`.
        noise: sigma, `(...)`.
        x: `(..., queries, features)`.

    Returns:
        Independent normals `(..., queries, 1)`: right for each query on its own, not for several together.
    """
    variance = ((x @ belief.covariance) * x).sum(-1, keepdim=True) + noise[..., None, None] ** 2
    return Normal(x @ belief.mean[..., None], variance.sqrt(), validate_args=False)


class Fit(NamedTuple):
    """A prior learned from tasks, and the log-likelihood of all tasks before each step of EM and after the last."""

    prior: Prior
    log_likelihood: Tensor  # (steps + 1, ...)


def empirical_bayes(support: Set, steps: int = 100, start: Prior | None = None) -> Fit:
    """Maximum marginal likelihood by EM.

    Args:
        support: examples of many tasks, `x (..., tasks, examples, features)` and `y (..., tasks, examples, 1)`.  Each
            index of the leading dimensions is a collection of tasks with a prior of its own.
        steps: of EM.
        start: by default one weight vector for all tasks, and its squared error shared by tasks and noise.

    Raises:
        ValueError: fewer than one step or two tasks, or shapes that do not fit each other.
    """
    check_counts(steps=steps)
    x, y = support
    if x.ndim < 3 or x.shape[-3] < 2:
        raise ValueError(f"a prior needs at least 2 tasks, x (..., tasks, examples, features); got x {tuple(x.shape)}")
    prior = start or _pooled(support)
    history = []
    for _ in range(steps):
        belief, log_likelihood = _learn(_for_tasks(prior), support)
        history.append(log_likelihood.sum(-1))
        mean = belief.mean.mean(-2)
        apart = belief.mean - mean[..., None, :]  # (..., tasks, features)
        covariance = belief.covariance.mean(-3) + apart.mT @ apart / apart.shape[-2]
        misfit = y - x @ belief.mean[..., None]
        doubt = ((x @ belief.covariance) * x).sum(-1, keepdim=True)  # x'Vx
        prior = Prior(mean, covariance, (misfit.square() + doubt).mean((-3, -2, -1)).sqrt())
    history.append(log_marginal(_for_tasks(prior), support).sum(-1))
    return Fit(prior, torch.stack(history))


def descent_gain(x: Tensor, rate: Tensor | float, steps: int) -> Tensor:
    """G `(..., features, examples)` of gradient descent: `steps` steps from w_0 end at w_0 + G (y - X w_0).

    Args:
        x: `(..., examples, features)`.
        rate: alpha, or a matrix of rates `(features, features)`.
        steps: k, on the mean squared error of the examples, as the library's MAML takes them.
    """
    push = 2 / x.shape[-2] * _matrix(rate, x) @ x.mT  # (..., features, examples)
    gain = torch.zeros_like(push)
    for _ in range(steps):
        gain = gain + push - push @ (x @ gain)
    return gain


def early_stopping_prior(x: Tensor, rate: Tensor | float, steps: int, noise: Tensor | float) -> Tensor:
    """Q `(..., features, features)`: with the prior N(start, Q), the posterior mean is where gradient descent stops.

    Q grows like (1 - 2 s / n)^-k in a direction that is nearly learned; beyond 1e8 or so expect rounding errors.

    Args:
        x: `(..., examples, features)`.
        rate: alpha, or a symmetric positive definite matrix of rates `(features, features)`.
        steps: k >= 1.
        noise: sigma.

    Raises:
        ValueError: no step, or a step so long that it jumps beyond the least squares solution: no prior does that.
    """
    check_counts(steps=steps)
    root = torch.linalg.cholesky(_matrix(rate, x))
    z = x @ root
    s, vectors = torch.linalg.eigh(z.mT @ z)
    left = 1 - 2 * s / x.shape[-2]  # of the distance to the solution, after one step
    if (left**steps <= 0).any() or (left.abs() > 1 + 1e-12).any():
        raise ValueError(
            f"{steps} step(s) leave factors of the distance from {left.min():.3g} on; a prior needs them, to the power "
            "of the steps, in (0, 1]: choose a smaller rate"
        )
    flat = s.abs() <= 1e-12 * s.abs().amax(-1, keepdim=True)  # unseen directions, whose Q never matters
    phi = torch.expm1(-steps * left.abs().log()) / torch.where(flat, 1.0, s)
    phi = torch.where(flat, 2 * steps / x.shape[-2], phi)
    return noise**2 * root @ (vectors * phi[..., None, :]) @ vectors.mT @ root.mT


def linear_risk(gain: Tensor, x: Tensor, prior: Prior, start: Tensor | None = None) -> Tensor:
    """E ||w_hat - w||^2 over weights and noise of an estimator `w_hat = start + G (y - X start)`, for given inputs.

    Args:
        gain: G, `(..., features, examples)`.
        x: `(..., examples, features)`.
        prior: the one that tasks are really drawn from.
        start: `(..., features)`, by default the mean of the prior.

    Returns:
        `(...)`: tr(P Sigma P') + ||P (start - m)||^2 + sigma^2 tr(G G') with P = I - G X.
    """
    left = torch.eye(x.shape[-1]).to(x) - gain @ x
    offset = torch.zeros_like(prior.mean) if start is None else start - prior.mean
    spread = ((left @ prior.covariance) * left).sum((-2, -1))
    bias = (left @ offset[..., None]).square().sum((-2, -1))
    return spread + bias + prior.noise**2 * gain.square().sum((-2, -1))


def james_stein(z: Tensor, noise: float, centre: Tensor | None = None, positive: bool = False) -> Tensor:
    """Estimate theta from z ~ N(theta, noise^2 I) by shrinking towards a centre, by a factor read off z itself.

    Args:
        z: `(..., d)`, d numbers to be estimated together.
        noise: standard deviation of each.
        centre: `(..., d)` or broadcast to it.  By default the mean of the d numbers, at the price of one dimension.
        positive: never shrink beyond the centre (the positive part).

    Raises:
        ValueError: fewer than 3 numbers, or 4 where the centre is their mean: nothing can be gained.
    """
    free = z.shape[-1] - (centre is None)
    if free < 3:
        raise ValueError(f"shrinking needs 3 numbers, or 4 where their mean is the centre; got {z.shape[-1]}")
    centre = z.mean(-1, keepdim=True) if centre is None else centre
    apart = z - centre
    factor = 1 - (free - 2) * noise**2 / apart.square().sum(-1, keepdim=True)
    return centre + (factor.clamp(min=0) if positive else factor) * apart


def james_stein_risk(distance: Tensor, d: int) -> Tensor:
    """E ||james_stein - theta||^2 for noise 1 and a fixed centre: d - (d - 2)^2 E[1 / (d - 2 + 2 J)].

    Args:
        distance: of theta from the centre, `(...)`; J is Poisson with mean distance^2 / 2.
        d: dimension, at least 3.

    Raises:
        ValueError: fewer dimensions, where the expectation is infinite.
    """
    if d < 3:
        raise ValueError(f"the risk of the estimator is finite from 3 dimensions on, got d = {d}")
    half = distance.double()[..., None].square() / 2
    last = int(half.max() + 12 * half.max().sqrt() + 40)
    j = torch.arange(last, dtype=torch.float64, device=distance.device)
    weight = (torch.xlogy(j, half) - half - torch.lgamma(j + 1)).exp()
    return d - (d - 2) ** 2 * (weight / (d - 2 + 2 * j)).sum(-1)


class EmpiricalBayes(Learner):
    """A Gaussian prior as meta-parameters; its state is the posterior of one task.

    The meta-loss is the negative log marginal likelihood of a task's support and query set together, per example, so
    `meta_train` learns the prior by gradients; `set_prior` takes one over, such as that of `empirical_bayes`.

    Args:
        features: dimension of the inputs.
    """

    def __init__(self, features: int) -> None:
        check_counts(features=features)
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(features))
        self.root = nn.Parameter(torch.eye(features))  # Sigma = root root'
        self.log_noise = nn.Parameter(torch.zeros(()))

    @property
    def prior(self) -> Prior:
        """The prior that the meta-parameters stand for."""
        return Prior(self.mean, self.root @ self.root.mT, self.log_noise.exp())

    @torch.no_grad()
    def set_prior(self, prior: Prior) -> EmpiricalBayes:
        """Take over a prior, and return the learner."""
        values, vectors = torch.linalg.eigh(prior.covariance)
        self.mean.copy_(prior.mean)
        self.root.copy_(vectors * values.clamp(min=0).sqrt())
        self.log_noise.copy_(prior.noise.log())
        return self

    def adapt(self, support: Set) -> Posterior:
        """Beliefs about the weights after the support set."""
        return posterior(self.prior, support)

    def predict(self, state: Posterior, x: Tensor) -> Tensor:
        """Predictive means `(queries, 1)`."""
        return x @ state.mean[..., None]

    def distribution(self, state: Posterior, x: Tensor) -> Normal:
        """Of y at `x (..., queries, features)`; `state` may have the task dimension in front."""
        return predictive(state, self.prior.noise, x)

    def loss_and_prediction(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """The negative log marginal likelihood per example, and the predictive means of the queries."""
        both = Set(*(torch.cat(parts, 1) for parts in zip(*episode, strict=True)))
        return -log_marginal(self.prior, both).mean() / both.x.shape[1], self(episode)


def _for_tasks(prior: Prior) -> Prior:
    """With a dimension that broadcasts over tasks."""
    return Prior(prior.mean[..., None, :], prior.covariance[..., None, :, :], prior.noise[..., None])


def _pooled(support: Set) -> Prior:
    """One weight vector for all tasks, and half of its squared error for each of tasks and noise."""
    x, y = (part.flatten(-3, -2) for part in support)
    mean = torch.linalg.pinv(x) @ y  # (..., features, 1)
    half = (y - x @ mean).square().mean((-2, -1)) / 2
    per_weight = half / x.square().sum(-1).mean(-1)
    identity = torch.eye(x.shape[-1]).to(x)
    return Prior(mean.squeeze(-1), per_weight[..., None, None] * identity, half.sqrt())


def _matrix(rate: Tensor | float, x: Tensor) -> Tensor:
    rate = torch.as_tensor(rate).to(x)
    return rate if rate.ndim else rate * torch.eye(x.shape[-1]).to(x)
