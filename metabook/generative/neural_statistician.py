"""The neural statistician: a variational autoencoder over data sets, which summarises a whole set in one latent vector.

H. Edwards, A. Storkey, "Towards a Neural Statistician", ICLR 2017, on top of D. P. Kingma, M. Welling, "Auto-Encoding
Variational Bayes", ICLR 2014.  A set D = {x_1, ..., x_n} shares a context c, and every example has a latent z_i:

    p(D) = integral of  p(c)  prod_i  integral of  p(x_i | z_i, c) p(z_i | c) dz_i  dc          with p(c) = N(0, I)

The posteriors are networks: q(z_i | x_i, c), and the statistic network q(c | D), which does not see the order of D,

    e_i = encoder(x_i),    v = mean of the e_i,    q(c | D) = N(statistic(v, log n))            (their section 3.4)

and all networks maximise the evidence lower bound (their equations 4 and 7 to 10; here with one layer of z),

    log p(D) >= R - L - C
    R = E_q  sum_i log p(x_i | z_i, c)                       reconstruction
    L = E_q  sum_i KL(q(z_i | x_i, c) || p(z_i | c))         what the examples' latents cost
    C = KL(q(c | D) || p(c))                                 what the context costs

each from one draw of c and of the z_i.  The number of examples n is an extra feature, as in their section 5.3, where it
lets the posterior know how much it has seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Normal

from metabook.episode import Episode, Set
from metabook.learner import Learner
from metabook.tasks.distribution import check_counts


def normal(parameters: Tensor) -> Normal:
    """Independent normal distributions whose means and log standard deviations are the halves of `(..., 2 * d)`."""
    mean, log_std = parameters.chunk(2, -1)
    return Normal(mean, log_std.exp(), validate_args=False)


def bernoulli(logits: Tensor) -> Bernoulli:
    """Independent pixels, each ink with the probability that its logit says."""
    return Bernoulli(logits=logits, validate_args=False)


def kl(q: Normal, p: Normal) -> Tensor:
    """KL(q || p) in nats between diagonal Gaussians, summed over the last dimension.

    sum_j  log(s_j / r_j) + (r_j^2 + (a_j - b_j)^2) / (2 s_j^2) - 1/2        q = N(a, r^2), p = N(b, s^2)
    """
    ratio = (q.stddev / p.stddev).square()
    return 0.5 * (ratio - ratio.log() - 1 + ((q.mean - p.mean) / p.stddev).square()).sum(-1)


def draw(distribution: Distribution, generator: torch.Generator | None = None) -> Tensor:
    """A sample of a `Normal`, differentiable in its parameters, or of a `Bernoulli`, from an explicit generator.

    Raises:
        ValueError: another kind of distribution.
    """
    at = {"generator": generator, "device": distribution.mean.device, "dtype": distribution.mean.dtype}
    if isinstance(distribution, Normal):
        return distribution.mean + distribution.stddev * torch.randn(distribution.mean.shape, **at)
    if isinstance(distribution, Bernoulli):
        return (torch.rand(distribution.mean.shape, **at) < distribution.mean).to(distribution.mean)
    raise ValueError(f"draw knows Normal and Bernoulli, got {type(distribution).__name__}")


class Noise(NamedTuple):
    """Standard normal numbers that turn into draws of the latent variables."""

    context: Tensor  # (sets, context)
    latent: Tensor  # (examples of all sets, latent)


class Bound(NamedTuple):
    """The evidence lower bound of each set in its three parts, in nats."""

    reconstruction: Tensor  # R (sets,)
    latent: Tensor  # L (sets,)
    context: Tensor  # C (sets,)

    @property
    def total(self) -> Tensor:
        """R - L - C, the bound on log p(D): `(sets,)`."""
        return self.reconstruction - self.latent - self.context


class Contexts(NamedTuple):
    """What one task leaves behind."""

    posterior: Normal  # over (ways, context)
    counts: Tensor  # (ways,), examples of each class; 0 for an absent one


class NeuralStatistician(Learner):
    """A generative model of sets; its state is a posterior of the context for every class.

    Sets of a task are the classes of its labels, which say only what belongs together.  Networks that give a Gaussian
    answer with `(..., 2 * d)` numbers, means and log standard deviations, see `normal`.

    Args:
        encoder: examples `(n, *features)` -> codes `(n, h)`, shared by the statistic and the inference network.
        statistic: mean code and log n `(sets, h + 1)` -> q(c | D).
        inference: code and context `(n, h + context)` -> q(z | x, c).
        prior: context `(sets, context)` -> p(z | c).
        decoder: latent and context `(n, latent + context)` -> parameters of p(x | z, c).
        likelihood: parameters -> distribution over `(n, *features)`: `bernoulli`, `normal`, or another function.
        ways: the most classes an episode may have; None where sets come without labels, through `context` and `bound`.
        counts: whether the statistic network is told log n.  Without, it takes `(sets, h)`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        statistic: nn.Module,
        inference: nn.Module,
        prior: nn.Module,
        decoder: nn.Module,
        likelihood: Callable[[Tensor], Distribution] = bernoulli,
        ways: int | None = None,
        counts: bool = True,
    ) -> None:
        super().__init__(ways)
        self.encoder, self.statistic, self.inference = encoder, statistic, inference
        self.prior, self.decoder, self.likelihood, self.counts = prior, decoder, likelihood, counts

    def adapt(self, support: Set) -> Contexts:
        """q(c | D) for every class of one task."""
        self._need_ways()
        counts = F.one_hot(support.y, self.ways).sum(0)
        return Contexts(self._statistic(self.encoder(support.x), support.y, self.ways), counts)

    def predict(self, state: Contexts, x: Tensor) -> Tensor:
        """Logits `(queries, ways)`: -KL(q(c | D_k) || q(c | {x})), their algorithm 4; -inf for an absent class."""
        alone = self.context(x[:, None])
        alone = Normal(alone.mean[:, None], alone.stddev[:, None], validate_args=False)  # (queries, 1, context)
        return torch.where(state.counts > 0, -kl(state.posterior, alone), -torch.inf)

    def loss_and_prediction(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """Minus the bound per example, in nats, of the sets that support and query make together; query logits.

        The noise comes from torch's global generator, as that of dropout does.
        """
        self._need_ways()
        x, y = (torch.cat(parts, dim=1) for parts in zip(*episode, strict=True))  # (tasks, examples, ...)
        y = y + self.ways * torch.arange(len(y), device=y.device)[:, None]  # every class of every task is a set
        total = self._bound(x.flatten(0, 1), y.flatten(), self.ways * len(y)).total
        with torch.no_grad():
            prediction = self(episode)
        return -total.sum() / y.numel(), prediction

    def context(self, sets: Tensor) -> Normal:
        """q(c | D) of sets of one size, `(sets, examples, *features)`: a distribution over `(sets, context)`."""
        x, y = _in_a_row(sets)
        return self._statistic(self.encoder(x), y, len(sets))

    def bound(self, sets: Tensor, noise: Noise | None = None, generator: torch.Generator | None = None) -> Bound:
        """The evidence lower bound of sets of one size, from one draw of every latent variable.

        Args:
            sets: `(sets, examples, *features)`.
            noise: what to draw with, else from the generator.
            generator: torch's global one by default.
        """
        return self._bound(*_in_a_row(sets), len(sets), noise, generator)

    def imagine(self, context: Tensor, examples: int, generator: torch.Generator | None = None) -> Distribution:
        """New examples of sets whose context is given, for instance the mean of its posterior (their algorithm 2).

        Args:
            context: `(sets, context)`.
            examples: how many of each set.
            generator: of the latents, which are drawn from p(z | c).

        Returns:
            p(x | z, c) over `(sets, examples, *features)`: to `draw` from, or to take the mean of.
        """
        check_counts(examples=examples)
        each = context.repeat_interleave(examples, 0)
        z = draw(normal(self.prior(each)), generator)
        return self.likelihood(self.decoder(torch.cat([z, each], -1)).unflatten(0, (len(context), examples)))

    def log_density(
        self, posterior: Normal, x: Tensor, samples: int = 100, generator: torch.Generator | None = None
    ) -> Tensor:
        """log p(x | D) of single new examples: c from the posterior, z by importance sampling from q(z | x, c).

        Args:
            posterior: q(c | D) over `(sets, context)`.
            x: `(sets, queries, *features)`.
            samples: draws of c and z; the estimate grows with them, on average, towards its limit.
            generator: torch's global one by default.

        Returns:
            `(sets, queries)` in nats.
        """
        check_counts(samples=samples)
        flat, y = _in_a_row(x)
        codes, weights = self.encoder(flat), []
        for _ in range(samples):
            context = draw(posterior, generator)
            q, p = self._latents(codes, context, y)
            z = draw(q, generator)
            ratio = (p.log_prob(z) - q.log_prob(z)).sum(-1)
            weights.append(self._log_likelihood(flat, z, context[y]) + ratio)
        return (torch.stack(weights).logsumexp(0) - math.log(samples)).view(x.shape[:2])

    def _statistic(self, codes: Tensor, y: Tensor, sets: int) -> Normal:
        """q(c | D) of `sets` sets whose members `y (n,)` names."""
        counts = _sums(torch.ones_like(codes[:, :1]), y, sets).clamp(min=1)  # (sets, 1)
        pooled = _sums(codes, y, sets) / counts  # the mean over each set
        return normal(self.statistic(torch.cat([pooled, counts.log()], -1) if self.counts else pooled))

    def _latents(self, codes: Tensor, context: Tensor, y: Tensor) -> tuple[Normal, Normal]:
        """q(z | x, c) and p(z | c) of every example, over `(n, latent)`."""
        return normal(self.inference(torch.cat([codes, context[y]], -1))), normal(self.prior(context)[y])

    def _log_likelihood(self, x: Tensor, z: Tensor, context: Tensor) -> Tensor:
        return self.likelihood(self.decoder(torch.cat([z, context], -1))).log_prob(x).flatten(1).sum(1)

    def _bound(
        self, x: Tensor, y: Tensor, sets: int, noise: Noise | None = None, generator: torch.Generator | None = None
    ) -> Bound:
        codes = self.encoder(x)
        posterior = self._statistic(codes, y, sets)
        context = posterior.mean + posterior.stddev * noise.context if noise else draw(posterior, generator)
        q, p = self._latents(codes, context, y)
        z = q.mean + q.stddev * noise.latent if noise else draw(q, generator)
        log_likelihood = self._log_likelihood(x, z, context[y])
        terms = torch.stack([log_likelihood, kl(q, p), torch.ones_like(log_likelihood)], -1)
        reconstruction, latent, counts = _sums(terms, y, sets).unbind(-1)
        standard = Normal(torch.zeros_like(context), torch.ones_like(context), validate_args=False)
        return Bound(reconstruction, latent, kl(posterior, standard) * (counts > 0))  # an absent class costs nothing

    def _need_ways(self) -> None:
        if self.ways is None:
            raise ValueError("episodes need a statistician with ways; for sets without labels use context and bound")


def _sums(values: Tensor, y: Tensor, sets: int) -> Tensor:
    """Sums of `values (n, d)` over the members `y (n,)` of each set: `(sets, d)`."""
    return torch.index_add(values.new_zeros(sets, values.shape[1]), 0, y, values)


def _in_a_row(sets: Tensor) -> tuple[Tensor, Tensor]:
    """The examples of `(sets, examples, *features)` in one row `(n, *features)`, and the set `(n,)` that each is of."""
    if sets.ndim < 3 or 0 in sets.shape[:2]:
        raise ValueError(f"sets need shape (sets, examples, *features), none of them empty, got {tuple(sets.shape)}")
    return sets.flatten(0, 1), torch.arange(len(sets), device=sets.device).repeat_interleave(sets.shape[1])
