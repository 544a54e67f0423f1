"""Feature hallucination: a class with few examples is given imagined ones, in the space of features.

The idea: what varies within a class is much the same for all classes, so it can be learned on classes with many
examples and carried over (B. Hariharan, R. Girshick, "Low-shot Visual Recognition by Shrinking and Hallucinating
Features", ICCV 2017; Y.-X. Wang, R. Girshick, M. Hebert, B. Hariharan, "Low-Shot Learning from Imaginary Data", CVPR
2018).  An *imagination* here is an object with `sample(reference, n, generator)`: n further members of the class of
each reference.

*Delta-encoder, as a conditional VAE.*  E. Schwartz, L. Karlinsky, J. Shtok, S. Harary, M. Marder, A. Kumar, R. Feris,
R. Giryes, A. Bronstein, "Delta-encoder: an effective sample synthesis method for few-shot object recognition", NeurIPS
2018, encode what leads from a reference a to a target b of the same class.  With a prior on that code z it is a
variational autoencoder (D. P. Kingma, M. Welling, "Auto-Encoding Variational Bayes", ICLR 2014), whose bound is

    log p(b | a)  >=  E_q [log p(b | z, a)] - KL(q(z | b, a) || p(z)),      p(z) = N(0, I).

*Adversarial.*  I. Goodfellow et al., "Generative Adversarial Nets", NeurIPS 2014, with both players told the
reference: D minimises -E log D(b, a) - E log(1 - D(G(z, a), a)), and G minimises -E log D(G(z, a), a).

*In closed form.*  Where class means are N(m, B) and examples N(mu, W), an average x of k examples leaves

    mu | x  ~  N(m + B (B + W/k)^-1 (x - m),  B - B (B + W/k)^-1 B)

and a further example has the same mean and W more covariance.  Classifying by this density is Bayes' rule.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from metabook.episode import Episode, Set
from metabook.learner import Learner
from metabook.networks import mlp
from metabook.tasks.distribution import check_counts


class Imagination(Protocol):
    """What imagines members of a class."""

    def sample(self, reference: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """`n` imagined members of the class of each `reference (..., d)`: `(n, ..., d)`."""
        ...


class SameClassPairs:
    """Pairs of examples that share a class, and what separates them.

    As an imagination it adds to the reference the difference of a random pair of other classes, times `scale`.

    Args:
        features: `(n, d)`.
        labels: int64 `(n,)`; a class with fewer than two examples has no pairs and is left out.
        scale: of a difference; a difference of two examples has twice the covariance of one class, which
            `scale = 0.5 ** 0.5` corrects.

    Raises:
        ValueError: features and labels that do not fit, or no class with two examples.
    """

    def __init__(self, features: Tensor, labels: Tensor, scale: float = 1.0) -> None:
        if features.ndim != 2 or labels.shape != features.shape[:1]:
            raise ValueError(
                f"features (n, d) and labels (n,) are needed, got {tuple(features.shape)} and {tuple(labels.shape)}"
            )
        counts = torch.bincount(labels)
        order = labels.argsort(stable=True)
        keep = (counts > 1)[labels[order]]
        self.features, self.order, self.scale = features, order[keep], scale
        self.counts = counts[counts > 1]
        if not len(self.counts):
            raise ValueError("a pair needs a class with at least two examples, and there is none")
        self.starts = self.counts.cumsum(0) - self.counts

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`n` pairs (target, reference), `(n, d)` each: a class at random, then two different members of it."""
        device = self.features.device
        chosen = torch.randint(len(self.counts), (n,), generator=generator, device=device)
        count, start = self.counts[chosen], self.starts[chosen]
        first, second = torch.rand(2, n, generator=generator, device=device)
        first = (first * count).long().clamp(max=count - 1)
        second = (second * (count - 1)).long().clamp(max=count - 2)
        second = second + (second >= first)  # of the others
        return self.features[self.order[start + first]], self.features[self.order[start + second]]

    def sample(self, reference: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """The reference plus differences of random pairs, `(n, *reference.shape)`."""
        check_counts(n=n)
        target, other = self.draw(n * reference[..., 0].numel(), generator)
        return reference + self.scale * (target - other).view(n, *reference.shape)


class GaussianNoise(NamedTuple):
    """An imagination that knows nothing: the reference plus independent noise."""

    std: float

    def sample(self, reference: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """`(n, *reference.shape)`."""
        return reference + self.std * _normal((n, *reference.shape), reference, generator)


class DeltaVAE(nn.Module):
    """A conditional variational autoencoder of what leads from a reference to a target of the same class.

    Args:
        features: d.
        latent: length of the code z.
        hidden: width of the one hidden layer of encoder and decoder.
    """

    def __init__(self, features: int, latent: int = 16, hidden: int = 256) -> None:
        check_counts(features=features, latent=latent, hidden=hidden)
        super().__init__()
        self.latent = latent
        self.encoder = mlp([2 * features, hidden, 2 * latent])
        self.decoder = mlp([features + latent, hidden, features])
        self.log_std = nn.Parameter(torch.full((features,), -1.0))  # of the likelihood: small, so that z is used
        nn.init.zeros_(self.decoder[-1].weight)  # before training nothing is deformed
        nn.init.zeros_(self.decoder[-1].bias)

    def posterior(self, target: Tensor, reference: Tensor) -> Independent:
        """q(z | b, a), `(..., latent)`."""
        mean, log_std = self.encoder(torch.cat([target - reference, reference], -1)).chunk(2, -1)
        return Independent(Normal(mean, log_std.clamp(-7, 3).exp()), 1)

    def likelihood(self, z: Tensor, reference: Tensor) -> Independent:
        """p(b | z, a), `(..., d)`: the reference plus a deformation, and a learned deviation."""
        mean = reference + self.decoder(torch.cat([reference, z], -1))
        return Independent(Normal(mean, self.log_std.exp().expand_as(mean)), 1)

    def elbo(self, target: Tensor, reference: Tensor, generator: torch.Generator) -> Tensor:
        """The bound on log p(b | a) in nats, one sample of z each, `(...)`; reparametrised, so it has gradients."""
        q = self.posterior(target, reference)
        z = q.mean + q.stddev * _normal(q.mean.shape, q.mean, generator)
        prior = Independent(Normal(torch.zeros_like(z), torch.ones_like(z)), 1)
        return self.likelihood(z, reference).log_prob(target) - kl_divergence(q, prior)

    def sample(self, reference: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """Draws of p(b | a): z from its prior, then b, `(n, *reference.shape)`."""
        check_counts(n=n)
        z = _normal((n, *reference.shape[:-1], self.latent), reference, generator)
        b = self.likelihood(z, reference.expand(n, *reference.shape))
        return b.mean + b.stddev * _normal(b.mean.shape, reference, generator)


class FeatureGAN(nn.Module):
    """Generator and discriminator that are both told the reference.

    Args:
        features: d.
        noise: length of the generator's noise z.
        hidden: width of the hidden layers: one of the generator, two of the discriminator.
        rectify: features are never negative, as behind a ReLU.
    """

    def __init__(self, features: int, noise: int = 16, hidden: int = 128, rectify: bool = False) -> None:
        check_counts(features=features, noise=noise, hidden=hidden)
        super().__init__()
        self.noise, self.rectify = noise, rectify
        self.generator = mlp([features + noise, hidden, features])
        self.discriminator = mlp([2 * features, hidden, hidden, 1])

    def sample(self, reference: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """G(z, a) for `n` draws of z, `(n, *reference.shape)`."""
        check_counts(n=n)
        z = _normal((n, *reference.shape[:-1], self.noise), reference, generator)
        a = reference.expand(n, *reference.shape)
        b = a + self.generator(torch.cat([a, z], -1))
        return b.relu() if self.rectify else b

    def logit(self, target: Tensor, reference: Tensor) -> Tensor:
        """Log-odds that the discriminator gives to `target` being real, `(...)`."""
        return self.discriminator(torch.cat([target - reference, reference], -1))[..., 0]

    def discriminator_loss(self, target: Tensor, reference: Tensor, generator: torch.Generator) -> Tensor:
        """Cross-entropy of real against imagined targets, both terms added; no gradient for G."""
        fake = self.sample(reference, 1, generator)[0].detach()
        return F.softplus(-self.logit(target, reference)).mean() + F.softplus(self.logit(fake, reference)).mean()

    def generator_loss(self, reference: Tensor, generator: torch.Generator) -> Tensor:
        """What G minimises: -log D of its own examples."""
        return F.softplus(-self.logit(self.sample(reference, 1, generator)[0], reference)).mean()


class Predictives(NamedTuple):
    """One Gaussian per class."""

    mean: Tensor  # (ways, d)
    covariance: Tensor  # (ways, d, d)
    present: Tensor  # bool (ways,)


class GaussianClasses(Learner):
    """Bayes' rule where class means are N(m, B) and examples N(mu, W); its state is one predictive Gaussian per class.

    Where the assumption is true it is the best classifier there is.  It is also an imagination.

    Args:
        mean: m `(d,)`.
        between: B `(d, d)`, covariance of the class means.
        within: W `(d, d)`, covariance within a class.
        ways: the most classes an episode may have.  A class without support examples is never predicted.
    """

    def __init__(self, mean: Tensor, between: Tensor, within: Tensor, ways: int = 2) -> None:
        super().__init__(ways)
        d = mean.shape[-1]
        if mean.shape != (d,) or between.shape != (d, d) or within.shape != (d, d):
            shapes = [tuple(t.shape) for t in (mean, between, within)]
            raise ValueError(f"mean (d,), between (d, d) and within (d, d) are needed, got {shapes}")
        for name, value in {"mean": mean, "between": between, "within": within}.items():
            self.register_buffer(name, value)

    @classmethod
    def fit(cls, features: Tensor, labels: Tensor, ways: int = 2) -> GaussianClasses:
        """By moments, from `features (n, d)` and `labels (n,)` with at least two classes and two examples of each.

        B is the covariance of the class means less what the examples' spread puts into it, and has no negative
        eigenvalue.
        """
        counts = torch.bincount(labels)
        if len(counts) < 2 or counts.min() < 2:
            raise ValueError(f"two classes and two examples of each are needed, got {counts.tolist()[:20]} examples")
        means = features.new_zeros(len(counts), features.shape[1]).index_add(0, labels, features) / counts[:, None]
        rest = features - means[labels]
        within = rest.T @ rest / (len(labels) - len(counts))
        values, vectors = torch.linalg.eigh(torch.cov(means.T) - within * (1 / counts).mean())
        return cls(means.mean(0), vectors * values.clamp(min=0) @ vectors.T, within, ways)

    def predictive(self, centre: Tensor, shots: Tensor | int = 1) -> MultivariateNormal:
        """A further example of the class, of which `centre (..., d)` is the average of `shots (...)` examples."""
        shots = shots[..., None, None] if isinstance(shots, Tensor) else shots
        total = self.between + self.within / shots
        gain = torch.linalg.solve(total, self.between.expand_as(total))  # (B + W/k)^-1 B
        mean = self.mean + ((centre - self.mean)[..., None, :] @ gain)[..., 0, :]
        covariance = self.between - self.between @ gain + self.within
        return MultivariateNormal(mean, covariance, validate_args=False)

    def sample(self, reference: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """Draws of the predictive of each reference, taken as a class with one example, `(n, *reference.shape)`."""
        check_counts(n=n)
        b = self.predictive(reference)
        noise = _normal((n, *reference.shape), reference, generator)
        return b.mean + (b.scale_tril @ noise[..., None])[..., 0]

    def adapt(self, support: Set) -> Predictives:
        """The predictive of each class."""
        labels = F.one_hot(support.y, self.ways).to(support.x)  # (n, ways)
        counts = labels.sum(0)
        b = self.predictive(labels.T @ support.x / counts.clamp(min=1)[:, None], counts.clamp(min=1))
        return Predictives(b.mean, b.covariance_matrix, counts > 0)

    def predict(self, state: Predictives, x: Tensor) -> Tensor:
        """Logits: the log-density of each query under each class, `(queries, ways)`; -inf for an absent class."""
        factor = torch.linalg.cholesky_ex(state.covariance).L
        away = torch.linalg.solve_triangular(factor, (x[None] - state.mean[:, None]).mT, upper=False)
        volume = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return torch.where(state.present, -0.5 * away.square().sum(1).T - volume, -torch.inf)


class Discriminant(NamedTuple):
    """What one task leaves behind."""

    means: Tensor  # (ways, d)
    covariance: Tensor  # (d, d), shrunk
    present: Tensor  # bool (ways,)


class LinearDiscriminant(Learner):
    """Fisher's discriminant: class means, and one covariance that all classes share, shrunk to a multiple of I.

    With a single example per class there is no covariance, and it is the nearest mean.

    Args:
        ways: the most classes an episode may have.  A class without support examples is never predicted.
        shrinkage: share of the multiple of the identity, from 0 to 1; at 1 it is the nearest mean.
    """

    def __init__(self, ways: int, shrinkage: float = 0.5) -> None:
        if not 0 <= shrinkage <= 1:
            raise ValueError(f"shrinkage is a share, from 0 to 1, got {shrinkage}")
        super().__init__(ways)
        self.shrinkage = shrinkage

    def adapt(self, support: Set) -> Discriminant:
        """Means and shrunk covariance of one task."""
        labels = F.one_hot(support.y, self.ways).to(support.x)  # (n, ways)
        counts = labels.sum(0)
        means = labels.T @ support.x / counts.clamp(min=1)[:, None]
        rest = support.x - labels @ means
        pooled = rest.T @ rest / (len(rest) - (counts > 0).sum()).clamp(min=1)
        size = pooled.diagonal().mean()
        round_ = torch.where(size > 0, size, 1) * torch.eye(len(pooled), dtype=pooled.dtype, device=pooled.device)
        share = torch.where(size > 0, self.shrinkage, 1.0)
        return Discriminant(means, torch.where(share < 1, (1 - share) * pooled, 0) + share * round_, counts > 0)

    def predict(self, state: Discriminant, x: Tensor) -> Tensor:
        """Logits: minus half the squared distance in the metric of the covariance; -inf for an absent class."""
        factor = torch.linalg.cholesky_ex(state.covariance).L
        points = torch.linalg.solve_triangular(factor, torch.cat([x, state.means]).T, upper=False).T
        x, means = points[: len(x)], points[len(x) :]
        away = x.square().sum(1)[:, None] - 2 * x @ means.T + means.square().sum(1)
        return torch.where(state.present, -0.5 * away, -torch.inf)


class Imagined(Learner):
    """A head that is given imagined examples beside the real ones; its state is the head's.

    Args:
        head: any learner whose inputs are features.
        imagination: what imagines.
        copies: imagined examples for each real one.
        generator: of the imagination; it moves on with every call.
        keep: whether the real examples stay in the support set.
    """

    def __init__(
        self, head: Learner, imagination: Imagination, copies: int, generator: torch.Generator, keep: bool = True
    ) -> None:
        check_counts(copies=copies)
        super().__init__(head.ways)
        self.head, self.imagination, self.copies = head, imagination, copies
        self.generator, self.keep = generator, keep

    @torch.no_grad()
    def augment(self, support: Set) -> Set:
        """The support set with its imagined examples, of one task or of many: `x (..., examples, d)`."""
        x, y = support
        new = self.imagination.sample(x, self.copies, self.generator)  # (copies, ..., examples, d)
        return Set(torch.cat([*([x] if self.keep else []), *new], -2), torch.cat([y] * (self.copies + self.keep), -1))

    def adapt(self, support: Set) -> object:
        """The head's state."""
        return self.head.adapt(self.augment(support))

    def predict(self, state: object, x: Tensor) -> Tensor:
        """The head's answer."""
        return self.head.predict(state, x)

    def forward(self, episode: Episode) -> Tensor:
        """Imagine for all tasks at once, then the head: `(tasks, queries, ways)`."""
        return self.head(Episode(self.augment(episode.support), episode.query))


def exact_points(gaussian: MultivariateNormal) -> Tensor:
    """`2 d` points whose mean and covariance (divided by `2 d`) are exactly those of each Gaussian, `(2 d, ..., d)`."""
    steps = (gaussian.scale_tril * gaussian.loc.shape[-1] ** 0.5).mT.movedim(-2, 0)  # (d, ..., d)
    return torch.cat([gaussian.mean + steps, gaussian.mean - steps])


def _normal(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)
