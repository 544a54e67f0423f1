"""What all learners have in common: a map from a support set to a state, its symmetries, and what it passes on.

*Symmetries.*  A support set has no order and its labels are arbitrary names.  So a learner should be

    invariant:    predict(adapt(P S), x) = predict(adapt(S), x)       for every order P of the examples,
    equivariant:  relabelled examples give predictions whose columns are relabelled in the same way.

*Deep Sets.*  M. Zaheer, S. Kottur, S. Ravanbakhsh, B. Poczos, R. Salakhutdinov, A. Smola, "Deep Sets", NeurIPS 2017: a
function of sets from a countable universe is invariant if and only if it is rho(sum of phi(x)) (their Theorem 2); a
linear layer on n elements is equivariant if and only if its matrix is

    lambda I + gamma 1 1'                                              (their Lemma 3).

For n real numbers the power sums p_k = sum of x^k, k = 1..n, are such a sum, and determine the set: Newton's identities
turn them into the coefficients of the polynomial whose roots are the numbers.

*Expansions.*  A learner of values that is linear in its labels is a weighted sum of what it saw of the function f,

    prediction at x = sum over j of  beta_j(x) f(x_j),

as kernel ridge regression and one gradient step from zero of a linear model are.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call, grad, jacrev
from torch.utils._pytree import tree_leaves

from metabook.episode import Episode, Set
from metabook.generative.feature_hallucination import GaussianClasses
from metabook.learner import Learner
from metabook.optimization.maml import MAML, Weights
from metabook.tasks.distribution import TaskDistribution, check_counts


class HiddenClasses(TaskDistribution):
    """Classes that differ in a few hidden directions, among many in which examples only scatter.

    The means of the classes are drawn from N(0, between), examples around them from N(mean, within); the covariances
    are the same for all tasks, so a learner can find out what to look at.

    Args:
        features: coordinates of an example.
        signal: hidden directions in which classes differ.
        ways, shots, queries: of a task.
        seed: of the hidden directions.
    """

    def __init__(
        self, features: int = 16, signal: int = 3, ways: int = 5, shots: int = 3, queries: int = 10, seed: int = 0
    ) -> None:
        check_counts(features=features, signal=signal, ways=ways, shots=shots, queries=queries)
        if signal > features:
            raise ValueError(f"there are {features} directions, so {signal} of them cannot carry the signal")
        self.ways, self.shots, self.queries, self.device = ways, shots, queries, torch.device("cpu")
        generator = torch.Generator().manual_seed(seed)
        directions = torch.linalg.qr(torch.randn(features, features, generator=generator)).Q
        spread = torch.zeros(features)
        spread[:signal] = 2.0
        self.to_mean = directions * spread  # (features, features): class means are to_mean @ N(0, I)
        self.to_example = directions * torch.where(spread > 0, 0.7, 2.0)
        self.oracle = GaussianClasses(
            torch.zeros(features), self.to_mean @ self.to_mean.T, self.to_example @ self.to_example.T, ways
        )

    def sample(self, n: int, generator: torch.Generator) -> Episode:
        """Draw `n` tasks: examples `(n, ways * per class, features)`, ordered by class."""
        self._check(n, generator)
        features, each = len(self.to_mean), self.shots + self.queries
        means = torch.randn(n, self.ways, 1, features, generator=generator) @ self.to_mean.T
        x = means + torch.randn(n, self.ways, each, features, generator=generator) @ self.to_example.T
        parts = x.split([self.shots, self.queries], dim=2)
        labels = [torch.arange(self.ways).repeat_interleave(part.shape[2]).expand(n, -1) for part in parts]
        return Episode(*(Set(part.flatten(1, 2), y) for part, y in zip(parts, labels, strict=True)))


def permutation_gap(learner: Learner, episode: Episode, generator: torch.Generator) -> Tensor:
    """Largest change of a prediction when the support examples of each task are handed over in another order."""
    order = torch.rand(episode.support.y.shape[:2], generator=generator).argsort(-1)  # (tasks, examples)
    support = Set(*(_take(t, order) for t in episode.support))
    return _gap(learner(episode), learner(Episode(support, episode.query)))


def equivariance_gap(learner: Learner, episode: Episode, names: Tensor) -> Tensor:
    """Largest change of a prediction, columns put back in place, when class k is called `names[k]` instead.

    Args:
        learner: a classifier.
        episode: its classes are 0..ways-1.
        names: int64 `(ways,)`, a permutation.
    """
    renamed = Episode(*(Set(part.x, names[part.y]) for part in episode))
    return _gap(learner(episode), learner(renamed)[..., names])


def _take(t: Tensor, order: Tensor) -> Tensor:
    return torch.stack([row[rank] for row, rank in zip(t, order, strict=True)])


def _gap(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().max()


def state_size(learner: Learner, support: Set) -> int:
    """How many numbers the learner keeps of one task, `support.x (examples, *features)`."""
    state = learner.adapt(support)
    return sum(leaf.numel() for leaf in tree_leaves(state) if isinstance(leaf, Tensor))


def equivariant_part(matrix: Tensor) -> Tensor:
    """The equivariant matrix lambda I + gamma 1 1' nearest to a matrix `(n, n)`: its mean over all permutations.

    Raises:
        ValueError: not a square matrix of at least two rows.
    """
    n = matrix.shape[-1]
    if matrix.ndim != 2 or matrix.shape[0] != n or n < 2:
        raise ValueError(f"a square matrix of at least two rows is needed, got the shape {tuple(matrix.shape)}")
    diagonal = matrix.diagonal().mean()
    gamma = (matrix.sum() - matrix.diagonal().sum()) / (n * (n - 1))
    return (diagonal - gamma) * torch.eye(n, dtype=matrix.dtype, device=matrix.device) + gamma


def power_sums(x: Tensor) -> Tensor:
    """Sums of the powers 1..n of the numbers `x (n,)`, `(n,)`."""
    return torch.stack([x.pow(k).sum() for k in range(1, len(x) + 1)])


def set_from_power_sums(sums: Tensor) -> Tensor:
    """The n real numbers with these power sums `(n,)`, ascending: Newton's identities, then the roots of a polynomial.

    With e_0 = 1 and k e_k = sum over i = 1..k of (-1)^(i-1) e_{k-i} p_i, the numbers are the roots of
    z^n - e_1 z^(n-1) + e_2 z^(n-2) - ...
    """
    n = len(sums)
    e = [torch.ones_like(sums[0])]
    for k in range(1, n + 1):
        e.append(sum((-1) ** (i - 1) * e[k - i] * sums[i - 1] for i in range(1, k + 1)) / k)
    companion = torch.diag(torch.ones(n - 1, dtype=sums.dtype), -1)
    companion[0] = torch.stack([(-1) ** (k - 1) * e[k] for k in range(1, n + 1)])
    return torch.linalg.eigvals(companion).real.sort().values


class SequentialDescent(MAML):
    """Gradient descent that sees one support example after the other, each once, in the order in which they come.

    It is what training on a stream does, and it is not a map of sets: another order gives other weights.
    """

    def adapt(self, support: Set) -> Weights:
        """Weights after one step on each example."""
        weights = dict(self.network.named_parameters())

        def loss(weights: Weights, x: Tensor, y: Tensor) -> Tensor:
            return self.loss(functional_call(self.network, weights, (x[None],)), y[None])

        for x, y in zip(support.x, support.y, strict=True):
            slope = grad(loss)(weights, x, y)
            weights = {name: w - self.inner_lr * slope[name] for name, w in weights.items()}
        return weights


def label_weights(learner: Learner, support: Set, x: Tensor) -> Tensor:
    """The beta of a learner of values: derivatives of its predictions with respect to the values it was shown.

    Args:
        learner: its predictions have one output.
        support: one task, `x (examples, *features)` and `y (examples, 1)`.
        x: `(queries, *features)`.

    Returns:
        `(queries, examples)`.  Where the learner is linear in its labels, `beta @ support.y` is its prediction.
    """
    return jacrev(lambda y: learner.predict(learner.adapt(Set(support.x, y)), x)[:, 0])(support.y)[..., 0]
