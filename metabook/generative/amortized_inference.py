"""Amortised and particle posteriors: the state that a task leaves behind is a distribution over weights.

*VERSA.*  J. Gordon, J. Bronskill, M. Bauer, S. Nowozin, R. E. Turner, "Meta-Learning Probabilistic Inference for
Prediction", ICLR 2019.  A network maps the support set S to the parameters of q(w | S), and all that is asked of q is
that predictions made with it are good:

    p(y | x, S) ~ integral of p(y | x, w) q(w | S) dw ~ 1/L sum_l p(y | x, w_l)    with w_l drawn from q
    minimise  mean over tasks and queries of  -log p(y | x, S)

For a linear softmax classifier the weights of class k come from the mean embedding of the examples of class k alone.
Given x, the logit of class k is then Gaussian with mean m_k.h and variance s_k^2.h^2, so it is drawn directly.

*Bayesian MAML.*  J. Yoon, T. Kim, O. Dia, S. Kim, Y. Bengio, S. Ahn, "Bayesian Model-Agnostic Meta-Learning",
NeurIPS 2018.  The start of MAML becomes M starts, and its gradient step a step of Stein variational gradient descent
(Q. Liu, D. Wang, "Stein Variational Gradient Descent", NeurIPS 2016, their algorithm 1),

    phi(t) = 1/M sum_j  k(t_j, t) grad log p(t_j)  +  grad_{t_j} k(t_j, t)        k(s, t) = exp(-||s - t||^2 / h)

which pulls particles to probable weights and pushes them apart.  Here log p(t | S) = -n L_S(t), with the mean loss L_S
of the n support examples, and a step is t + alpha / n * phi(t): a single particle takes exactly the step of MAML.
The outer loss is the negative log-likelihood of each query under the mixture of the particles' predictions (the paper
adds a loss that draws the particles after a few steps to those after more).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, MixtureSameFamily, MultivariateNormal, Normal
from torch.func import functional_call, grad, stack_module_state, vmap

from metabook.episode import Episode, Set, is_classification
from metabook.learner import Learner
from metabook.metric.prototypical_networks import prototypes
from metabook.networks import mlp
from metabook.optimization.maml import Weights, check_inner_loop
from metabook.tasks.distribution import check_counts


class LinearBelief(NamedTuple):
    """Gaussian beliefs about the weights of a linear function."""

    mean: Tensor  # (..., features)
    scale: Tensor  # (..., features, features), the lower Cholesky factor of the covariance


class PooledBelief(nn.Module):
    """A support set of any size to a `LinearBelief`, by a network that pools.

    One network reads each pair (x, y); the mean over the pairs and the logarithm of their number go through a second.

    Args:
        features: dimension of `w` and `x`.
        width: of the hidden layers.
    """

    def __init__(self, features: int, width: int = 64) -> None:
        check_counts(features=features, width=width)
        super().__init__()
        self.features = features
        rows, columns = torch.tril_indices(features, features)
        self.reader = mlp([features + 1, width, width, width], nn.SiLU)
        self.writer = mlp([width + 1, width, width, features + len(rows)], nn.SiLU)
        self.register_buffer("diagonal", rows == columns)
        self.register_buffer("place", F.one_hot(rows * features + columns, features**2).float())  # (entries, d * d)

    def forward(self, x: Tensor, y: Tensor) -> LinearBelief:
        """`x (..., examples, features)`, `y (..., examples, 1)` -> beliefs."""
        read = self.reader(torch.cat([x, y], -1)).mean(-2)
        size = torch.full_like(read[..., :1], math.log(x.shape[-2]))
        mean, entries = self.writer(torch.cat([read, size], -1)).tensor_split([self.features], -1)
        entries = torch.where(self.diagonal, F.softplus(entries) + 1e-4, entries)
        return LinearBelief(mean, (entries @ self.place).unflatten(-1, (self.features, self.features)))


class AddedEvidence(nn.Module):
    """A support set of any size to a `LinearBelief`, by adding what each example has to say.

    With p = (x, y), an example adds the matrix R p p'R' to the precision, and to precision times mean the vector whose
    entries are p'C_l p.  Prior and posterior of a linear function with Gaussian noise are of this form: there
    R = (I, 0) / noise, and the entries of the C_l pick x_l y / noise^2.

    Args:
        features: dimension of `w` and `x`.
    """

    def __init__(self, features: int) -> None:
        check_counts(features=features)
        super().__init__()
        self.root = nn.Parameter(torch.eye(features, features + 1))  # R
        self.products = nn.Parameter(torch.zeros(features, features + 1, features + 1))  # C
        self.prior_root, self.prior_shift = nn.Parameter(torch.eye(features)), nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor, y: Tensor) -> LinearBelief:
        """`x (..., examples, features)`, `y (..., examples, 1)` -> beliefs."""
        p = torch.cat([x, y], -1)
        moments = p.mT @ p  # (..., features + 1, features + 1)
        precision = self.prior_root @ self.prior_root.mT + self.root @ moments @ self.root.mT
        shift = self.prior_shift + torch.einsum("...jk,ljk->...l", moments, self.products)
        covariance = torch.cholesky_inverse(torch.linalg.cholesky_ex(precision).L)
        mean = (covariance @ shift[..., None]).squeeze(-1)
        return LinearBelief(mean, torch.linalg.cholesky_ex(covariance).L)


class VersaRegression(Learner):
    """An amortised posterior q(w | S) for `y = w . x + N(0, noise^2)`; its state is a `LinearBelief`.

    `adapt`, `distribution` and `predict` also take tensors with the task dimension in front.

    Args:
        inference: maps `x (..., examples, features)` and `y (..., examples, 1)` to beliefs, such as `PooledBelief`.
        noise: standard deviation of the targets.

    Raises:
        ValueError: noise that is not positive.
    """

    def __init__(self, inference: nn.Module, noise: float) -> None:
        _check_positive(noise=noise)
        super().__init__()
        self.inference, self.noise = inference, noise

    def adapt(self, support: Set) -> LinearBelief:
        """Beliefs after the support set."""
        return self.inference(support.x, support.y)

    def posterior(self, state: LinearBelief) -> MultivariateNormal:
        """The beliefs as a distribution over weights."""
        return MultivariateNormal(state.mean, scale_tril=state.scale, validate_args=False)

    def distribution(self, state: LinearBelief, x: Tensor) -> Normal:
        """Of y at `x (..., queries, features)`, the weights integrated out: mean and deviation `(..., queries, 1)`."""
        variance = (x @ state.scale).square().sum(-1, keepdim=True) + self.noise**2
        return Normal(self.predict(state, x), variance.sqrt(), validate_args=False)

    def predict(self, state: LinearBelief, x: Tensor) -> Tensor:
        """The means alone, `(queries, 1)`."""
        return x @ state.mean[..., None]

    def loss_and_prediction(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood of the queries, and their means."""
        predicted = self.distribution(self.adapt(episode.support), episode.query.x)
        return -predicted.log_prob(episode.query.y).mean(), predicted.mean


class ClassBelief(NamedTuple):
    """Independent Gaussian beliefs about the weights of a linear classifier, the last one of each row a bias."""

    mean: Tensor  # (ways, features + 1)
    std: Tensor  # (ways, features + 1)
    present: Tensor  # bool (ways,), which classes had support examples


class VersaClassifier(Learner):
    """VERSA's amortised linear classifier in a learned embedding; its state is a `ClassBelief`.

    The inference network corrects the linear classifier that a prototypical network is, weights 2 c_k and bias
    -||c_k||^2, and starts with a correction of zero.  Besides c_k it reads the logarithm of the number of examples.

    Args:
        encoder: maps `(n, *features)` to embeddings `(n, d)`.
        features: d.
        ways: the most classes an episode may have.  A class without support examples is never predicted.
        width: of the hidden layer of the inference network.
        samples: L, draws of the logits; those of training come from torch's global generator, as dropout's do, and
            those of an evaluation are the same for all tasks and queries.
        certain: leave out the beliefs' spread: the same network as a point estimate.
        seed: of the draws of an evaluation.

    Raises:
        ValueError: fewer than two ways, or a size below one.
    """

    def __init__(
        self, encoder: nn.Module, features: int, ways: int, width: int = 64, samples: int = 20,
        certain: bool = False, seed: int = 0,
    ) -> None:  # fmt: skip
        check_counts(features=features, width=width, samples=samples)
        super().__init__(ways)
        self.encoder, self.features, self.samples, self.certain = encoder, features, samples, certain
        self.inference = mlp([features + 1, width, 2 * (features + 1)], nn.ELU)
        nn.init.zeros_(self.inference[-1].weight)
        nn.init.zeros_(self.inference[-1].bias)
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("draws", torch.randn(samples, 1, ways, generator=generator))

    def adapt(self, support: Set) -> ClassBelief:
        """Beliefs about the weights of each class, from its own examples alone."""
        centres = prototypes(self.encoder(support.x), support.y, self.ways)  # (ways, d)
        nearest = torch.cat([2 * centres, -centres.square().sum(-1, keepdim=True)], -1)
        shots = F.one_hot(support.y, self.ways).sum(0)
        read = torch.cat([centres, shots.clamp(min=1).log()[:, None].to(centres)], -1)
        change, raw = self.inference(read).chunk(2, -1)
        std = torch.zeros_like(raw) if self.certain else F.softplus(raw - 1) / shots.clamp(min=1).sqrt()[:, None]
        return ClassBelief(nearest + change, std, shots > 0)

    def logits(self, state: ClassBelief, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each query's logits, `(queries, ways)`; a mean of -inf for absent classes."""
        h = F.pad(self.encoder(x), (0, 1), value=1.0)  # (queries, d + 1)
        variance = h.square() @ state.std.square().T
        std = variance.clamp(min=1e-12).sqrt() if not self.certain else torch.zeros_like(variance)
        return torch.where(state.present, h @ state.mean.T, -torch.inf), std

    def distribution(self, mean: Tensor, std: Tensor, draws: Tensor) -> Categorical:
        """Probabilities averaged over the draws of the logits.

        Args:
            mean, std: of the logits, `(..., queries, ways)`.
            draws: standard normal `(samples, ..., queries, ways)`; dimensions of one serve all.
        """
        log_probs = (mean + std * draws).log_softmax(-1)  # (samples, ..., queries, ways)
        return Categorical(logits=log_probs.logsumexp(0) - math.log(len(log_probs)), validate_args=False)

    def predict(self, state: ClassBelief, x: Tensor) -> Tensor:
        """Logarithms of the predicted probabilities, `(queries, ways)`."""
        return self.distribution(*self.logits(state, x), self.draws).logits

    def loss_and_prediction(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood of the queries under fresh draws, and their log-probabilities."""
        mean, std = vmap(lambda support, x: self.logits(self.adapt(support), x))(episode.support, episode.query.x)
        predicted = self.distribution(mean, std, torch.randn(self.samples, *mean.shape).to(mean))
        return -predicted.log_prob(episode.query.y).mean(), predicted.logits


def svgd_direction(particles: Tensor, scores: Tensor, bandwidth: Tensor | float | None = None) -> Tensor:
    """The direction phi in which each particle moves, `(M, d)`.

    Args:
        particles: t_j, `(M, d)`.
        scores: the gradients of log p at the particles, `(M, d)`.
        bandwidth: h of the kernel.  By default the median of the squared distances of all pairs over log(M + 1), which
            unlike the paper's log M is not zero for one particle.
    """
    count = len(particles)
    squared = (particles[:, None] - particles).square().sum(-1)  # (M, M)
    if bandwidth is None:
        bandwidth = _median_bandwidth(squared)
    kernel = torch.exp(-squared / bandwidth)
    apart = kernel.sum(1, keepdim=True) * particles - kernel @ particles  # sum_j k_jm (t_m - t_j)
    return (kernel @ scores + 2 / bandwidth * apart) / count


def _median_bandwidth(squared: Tensor) -> Tensor:
    count = len(squared)
    if count == 1:
        return torch.ones_like(squared[0, 0])
    pairs = torch.triu_indices(count, count, 1, device=squared.device)
    ordered = squared[pairs[0], pairs[1]].sort().values
    return ordered[(len(ordered) - 1) // 2].clamp(min=1e-12) / math.log(count + 1)


class BayesianMAML(Learner):
    """M starts shared by all tasks, adapted together by SVGD; its state is the adapted weights `(M, ...)` by name.

    Args:
        networks: the particles' starts, of one architecture, `(examples, *features) -> (examples, outputs)`.
        inner_lr: alpha, the rate of a step on the mean negative log-likelihood of the support set.
        inner_steps: number of steps.
        noise: standard deviation of values in the likelihood of the inner loop.  Classes have none.
        bandwidth: of the kernel; see `svgd_direction`.

    The width `log_std.exp()` of a particle's prediction of values is a meta-parameter that starts at `noise`: a few
    particles after a few steps miss the posterior by more than the noise.

    Raises:
        ValueError: no networks, or none that MAML could adapt; a rate, step, noise or bandwidth out of range.
    """

    def __init__(
        self, networks: Sequence[nn.Module], inner_lr: float = 0.01, inner_steps: int = 1, noise: float = 1.0,
        bandwidth: float | None = None,
    ) -> None:  # fmt: skip
        if not networks:
            raise ValueError("at least one network is needed, each the start of a particle; got none")
        for network in networks:
            check_inner_loop(network, inner_lr, inner_steps)
        _check_positive(noise=noise, bandwidth=1.0 if bandwidth is None else bandwidth)
        super().__init__()
        stacked, _ = stack_module_state(list(networks))
        self.names, self.starts = list(stacked), nn.ParameterList(stacked.values())
        self.log_std = nn.Parameter(self.starts[0].new_tensor(math.log(noise)))
        self.inner_lr, self.inner_steps, self.noise, self.bandwidth = inner_lr, inner_steps, noise, bandwidth
        self._skeleton = [copy.deepcopy(networks[0]).to("meta")]  # in a list, so its parameters are not ours

    def adapt(self, support: Set) -> Weights:
        """All particles after `inner_steps` steps of SVGD."""
        weights = dict(zip(self.names, self.starts, strict=True))
        for _ in range(self.inner_steps):
            slopes = vmap(grad(self._loss), (0, None, None))(weights, *support)
            points, scores = _flat(weights), -len(support.y) * _flat(slopes)
            step = svgd_direction(points, scores, self.bandwidth) / len(support.y)
            weights = _unflat(points + self.inner_lr * step, weights)
        return weights

    def outputs(self, state: Weights, x: Tensor) -> Tensor:
        """What each particle answers: `(M, queries, outputs)`."""
        return vmap(self._run, (0, None))(state, x)

    def distribution(self, outputs: Tensor) -> Distribution:
        """The mixture of the particles' predictions.

        Args:
            outputs: `(..., M, queries, outputs)`.

        Returns:
            For each value `(..., queries, outputs)` an equal mixture of M normals.
        """
        means = outputs.movedim(-3, -1)  # (..., queries, outputs, M)
        equal = Categorical(torch.ones_like(means), validate_args=False)
        each = Normal(means, self.log_std.exp(), validate_args=False)  # no checks of values: they wait for a GPU
        return MixtureSameFamily(equal, each, validate_args=False)

    def predict(self, state: Weights, x: Tensor) -> Tensor:
        """The mean of the particles' answers, `(queries, outputs)`."""
        return self.outputs(state, x).mean(0)

    def loss_and_prediction(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood of the queries under the mixture, and its mean."""
        outputs = vmap(lambda support, x: self.outputs(self.adapt(support), x))(episode.support, episode.query.x)
        return -self.distribution(outputs).log_prob(episode.query.y).mean(), outputs.mean(1)

    def check(self, episode: Episode) -> None:
        """Raise one clear `ValueError` if the learner cannot work on this batch."""
        super().check(episode)
        if is_classification(episode.support.y):
            raise ValueError(
                f"the targets hold classes ({episode.support.y.dtype}), but this is regression: give floating point"
            )

    def _run(self, weights: Weights, x: Tensor) -> Tensor:
        return functional_call(self._skeleton[0], weights, (x,))

    def _loss(self, weights: Weights, x: Tensor, y: Tensor) -> Tensor:
        """Mean negative log-likelihood of one particle, but for a constant."""
        return (self._run(weights, x) - y).square().mean() / (2 * self.noise**2)


def _flat(weights: Weights) -> Tensor:
    return torch.cat([w.flatten(1) for w in weights.values()], 1)  # (M, d)


def _unflat(points: Tensor, like: Weights) -> Weights:
    parts = points.split([w[0].numel() for w in like.values()], 1)
    return {name: part.view_as(w) for (name, w), part in zip(like.items(), parts, strict=True)}


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {value}")
