"""How many tasks are enough?  An exact excess risk, a PAC-Bayes bound over tasks, and memorisation with its cure.

*Excess risk.*  Tasks w ~ N(m, s^2 I) in d dimensions.  From n examples with orthonormal inputs (X'X / n = I) and noise
of variance v a task shows an estimate w + N(0, v / n).  The prior mean is learned as the mean of the estimates of T
tasks; a new task with k examples takes the posterior mean under it.  Above the risk of who knows m this costs

    d (1 - a)^2 (s^2 + v / n) / T,      a = s^2 / (s^2 + v / k).

*PAC-Bayes.*  A. Maurer, "A Note on the PAC Bayesian Theorem", arXiv cs/0411099, 2004, after D. McAllester, 1999: for n
independent losses in [0, 1], n >= 8, with probability 1 - delta for all posteriors Q at once

    kl( empirical risk of Q || risk of Q )  <=  ( KL(Q || P) + log(2 sqrt(n) / delta) ) / n.

Over tasks there are two such inequalities, one from the examples to the tasks that were seen and one from these to the
environment (A. Pentina, C. Lampert, "A PAC-Bayesian Bound for Lifelong Learning", ICML 2014; R. Amit, R. Meir,
"Meta-Learning by Adjusting Priors Based on Extended PAC-Bayes Theory", ICML 2018).

*Memorisation.*  M. Yin, G. Tucker, M. Zhou, S. Levine, C. Finn, "Meta-Learning without Memorization", ICLR 2020: where
the input tells the task, a network can fit all training tasks and ignore the support set.  Their cure on activations
lets the input through a noisy channel z and charges for what it carries,

    loss + strength * I(x; z).

Here the channel is noise on each coordinate of the input, for which the information has a closed form.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from metabook.episode import Episode, Set
from metabook.learner import Learner
from metabook.networks import mlp
from metabook.tasks.distribution import TaskDistribution, check_counts


def excess_risk(
    tasks: int, shots: int, new_shots: int, features: int = 1, spread: float = 1.0, noise: float = 1.0
) -> float:
    """Squared error of a new task's weights above that of the exact prior, when its mean was learned.

    Args:
        tasks: T, that the mean was learned from.
        shots: n, examples of each of them.
        new_shots: k, examples of the new task.
        features: d.
        spread: standard deviation of the weights between tasks.
        noise: standard deviation of the targets.

    Raises:
        ValueError: a count below one.
    """
    check_counts(tasks=tasks, shots=shots, new_shots=new_shots, features=features)
    trust = spread**2 / (spread**2 + noise**2 / new_shots)
    return features * (1 - trust) ** 2 * (spread**2 + noise**2 / shots) / tasks


def bernoulli_kl(q: Tensor, p: Tensor) -> Tensor:
    """Divergence of a coin with probability q from one with p, in nats; elementwise."""
    return torch.special.xlogy(q, q / p) + torch.special.xlogy(1 - q, (1 - q) / (1 - p))


def kl_inverse(q: Tensor, budget: Tensor, steps: int = 60) -> Tensor:
    """The largest p >= q with `bernoulli_kl(q, p) <= budget`, by bisection; elementwise, float64.

    Raises:
        ValueError: a negative budget, or q outside of 0..1.
    """
    q, budget = torch.broadcast_tensors(q.double(), torch.as_tensor(budget, dtype=torch.float64))
    if (budget < 0).any() or (q < 0).any() or (q > 1).any():
        raise ValueError("q must lie in 0..1 and the budget be 0 or more")
    low, high = q.clone(), torch.ones_like(q)
    for _ in range(steps):
        middle = (low + high) / 2
        inside = bernoulli_kl(q, middle) <= budget
        low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
    return high


def pac_bayes_bound(empirical: Tensor, divergence: Tensor, n: int, delta: float) -> Tensor:
    """Upper bound on the risk of a posterior, with probability 1 - delta: Maurer's inequality, solved for the risk.

    Args:
        empirical: mean loss of the posterior on its n examples, in [0, 1].
        divergence: KL of the posterior from the prior, nats.
        n: independent examples, 8 or more.
        delta: probability that it fails.

    Raises:
        ValueError: fewer than 8 examples, or delta outside of 0..1.
    """
    if n < 8 or not 0 < delta < 1:
        raise ValueError(f"at least 8 examples and a delta between 0 and 1 are needed, got {n} and {delta}")
    return kl_inverse(empirical, (divergence + math.log(2 * math.sqrt(n) / delta)) / n)


class CodedTasks(TaskDistribution):
    """Linear tasks `y = w . x + noise`, each with a code that comes with every input.

    With a fixed number of training tasks the code gives the task away: who has learned the codes by heart needs no
    support set.  New tasks have new codes, which say nothing about their weights.

    Args:
        tasks: how many there are, drawn once; None for new ones in every episode.
        features, code: coordinates of `x` and of the code; inputs are both, one after the other.
        shots, queries: of a task.
        noise: standard deviation of the targets.
        shuffle: give the tasks new codes in every episode, so that a code tells nothing.
        seed: of the fixed tasks.
    """

    def __init__(
        self,
        tasks: int | None,
        features: int = 2,
        code: int = 4,
        shots: int = 5,
        queries: int = 10,
        noise: float = 0.1,
        shuffle: bool = False,
        seed: int = 0,
    ) -> None:
        check_counts(features=features, code=code, shots=shots, queries=queries)
        if tasks is not None:
            check_counts(tasks=tasks)
        self.features, self.code, self.shots, self.queries = features, code, shots, queries
        self.noise, self.shuffle, self.device = noise, shuffle, torch.device("cpu")
        self.known = None if tasks is None else self._draw(tasks, torch.Generator().manual_seed(seed))

    def _draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Weights `(n, features)` and codes `(n, code)`."""
        return tuple(torch.randn(n, width, generator=generator) for width in (self.features, self.code))

    def sample(self, n: int, generator: torch.Generator) -> Episode:
        """Draw `n` tasks: inputs `(n, examples, features + code)`, values `(n, examples, 1)`."""
        self._check(n, generator)
        weights, codes = self._draw(n, generator)
        if self.known:
            rows = torch.randint(len(self.known[0]), (n,), generator=generator)
            weights, codes = self.known[0][rows], codes if self.shuffle else self.known[1][rows]
        each = self.shots + self.queries
        x = torch.randn(n, each, self.features, generator=generator)
        y = (x @ weights[..., None]) + self.noise * torch.randn(n, each, 1, generator=generator)
        inputs = torch.cat([x, codes[:, None].expand(-1, each, -1)], dim=-1)
        parts = zip(*(t.split([self.shots, self.queries], dim=1) for t in (inputs, y)), strict=True)
        return Episode(*(Set(*part) for part in parts))


class RegularisedProcess(Learner):
    """A conditional process that sees its inputs through noise, and pays for how little; its state is a mean of codes.

    Every coordinate j of an input gets Gaussian noise of its own learned variance s_j and is scaled back to its old
    size, z_j = (x_j + noise) / sqrt(1 + s_j).  For standard normal inputs the coordinates carry

        sum over j of  log(1 + 1 / s_j) / 2                         nats

    from x to z, which is what the charge counts.  Support inputs pass as queries do: what tells the task would else
    reach the answers by that path.

    Args:
        inputs: coordinates of an input, each of mean 0 and variance 1.
        strength: of the charge for what passes; 0 for an ordinary conditional process, without noise.
        width: of the networks, and of the state.

    Raises:
        ValueError: a count below one, or a negative strength.
    """

    def __init__(self, inputs: int, strength: float = 0.0, width: int = 64) -> None:
        super().__init__()
        check_counts(inputs=inputs, width=width)
        if strength < 0:
            raise ValueError(f"strength must be 0 or more, got {strength}")
        self.strength = strength
        self.log_noise = nn.Parameter(torch.full((inputs,), -4.0))  # of the variances
        self.encoder = mlp([inputs + 1, width, width])
        self.decoder = mlp([inputs + width, width, width, 1])

    def charge(self) -> Tensor:
        """What passes from inputs to the networks, in nats."""
        return 0.5 * torch.nn.functional.softplus(-self.log_noise).sum()

    def adapt(self, support: Set) -> Tensor:
        """The mean of the encoded pairs, `(width,)`, without noise."""
        return self.encoder(torch.cat([self._dim(support.x), support.y], dim=-1)).mean(0)

    def predict(self, state: Tensor, x: Tensor) -> Tensor:
        """Values `(queries, 1)`, without noise."""
        return self._decode(state, self._dim(x))

    def loss_and_prediction(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """Squared error of what is seen through the noise, and the charge."""
        if not self.strength:
            return super().loss_and_prediction(episode)
        support, query = (self._dim(x + (0.5 * self.log_noise).exp() * torch.randn_like(x)) for x, _ in episode)
        state = self.encoder(torch.cat([support, episode.support.y], dim=-1)).mean(1, keepdim=True)
        prediction = self._decode(state, query)  # (tasks, queries, 1)
        return self.loss(prediction, episode.query.y) + self.strength * self.charge(), prediction

    def _dim(self, x: Tensor) -> Tensor:
        return x * (1 + self.log_noise.exp()).rsqrt() if self.strength else x

    def _decode(self, state: Tensor, z: Tensor) -> Tensor:
        return self.decoder(torch.cat([z, state.expand(*z.shape[:-1], -1)], dim=-1))


def support_use(learner: nn.Module, episode: Episode) -> Tensor:
    """How much predictions change when each task is given the next task's support values, inputs kept: `(tasks,)`.

    The mean squared change over queries; 0 for a learner that ignores its support set.
    """
    swapped = Episode(Set(episode.support.x, episode.support.y.roll(1, 0)), episode.query)
    return (learner(episode) - learner(swapped)).square().flatten(1).mean(1)
