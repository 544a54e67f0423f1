"""The neural statistician against exact evidence, torch's own divergences, finite differences and a plain loop."""

import math
from itertools import product

import pytest
import torch
from examples import classification, slopes
from torch import nn
from torch.distributions import MultivariateNormal, Normal, Uniform, kl_divergence

from metabook import Episode, Set, meta_train
from metabook.generative.neural_statistician import NeuralStatistician, Noise, bernoulli, draw, kl, normal
from metabook.networks import mlp
from metabook.tasks.distribution import TaskDistribution


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def doubles(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


def gaussians(*shape, seed=0):
    return normal(doubles(*shape[:-1], 2 * shape[-1], seed=seed))


def statistician(features=2, ways=3, likelihood=normal, counts=True, device="cpu"):
    """Small networks: 3 numbers of context, 2 of each latent; the same weights at every call."""
    torch.manual_seed(0)
    outputs = 2 * features if likelihood is normal else features
    return (
        NeuralStatistician(
            mlp([features, 6, 5], nn.Tanh), mlp([5 + counts, 6, 6], nn.Tanh), mlp([8, 6, 4], nn.Tanh),
            mlp([3, 6, 4], nn.Tanh), mlp([5, 6, outputs], nn.Tanh), likelihood, ways, counts,
        ).double().to(device)
    )  # fmt: skip


# divergences and draws


def test_the_divergence_is_that_of_torch_and_zero_between_equals():
    q, p = gaussians(4, 3), gaussians(4, 3, seed=1)
    torch.testing.assert_close(kl(q, p), kl_divergence(q, p).sum(-1))
    torch.testing.assert_close(kl(q, q), torch.zeros(4).double())
    assert (kl(q, p) > 0).all()


def test_the_divergence_is_the_mean_log_ratio_of_its_draws():
    q, p = gaussians(3), gaussians(3, seed=1)
    x = q.mean + q.stddev * doubles(200_000, 3)
    ratios = (q.log_prob(x) - p.log_prob(x)).sum(-1)
    assert abs(ratios.mean() - kl(q, p)) < 4 * ratios.std() / len(ratios) ** 0.5


def test_draws_have_the_moments_of_their_distribution_and_follow_the_generator(device):
    at = torch.Generator(device).manual_seed(0)
    q = normal(torch.tensor([1.0, -2.0, math.log(0.5), math.log(3.0)], device=device).expand(100_000, 4))
    x = draw(q, at)
    torch.testing.assert_close(x.mean(0), torch.tensor([1.0, -2.0], device=device), rtol=0, atol=0.04)
    torch.testing.assert_close(x.std(0), torch.tensor([0.5, 3.0], device=device), rtol=0.02, atol=0)
    pixels = draw(bernoulli(torch.full((100_000,), 1.0, device=device)), at)
    assert set(pixels.unique().tolist()) == {0.0, 1.0}
    assert abs(pixels.mean() - 1 / (1 + math.exp(-1))) < 0.01
    again = draw(q, torch.Generator(device).manual_seed(0))
    assert torch.equal(again, x) and not torch.equal(draw(q, at), x)


def test_a_draw_of_a_gaussian_carries_the_gradient_of_its_parameters():
    parameters = doubles(4, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: draw(normal(p), generator(3)), (parameters,))


# the bound against an evidence that is known


class Row(nn.Module):
    """The Gaussian with mean `linear(x)` and a given standard deviation, as means and log deviations `(n, 2)`."""

    def __init__(self, mean, std):
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x):
        return torch.stack(
            [self.mean(*x.unbind(-1)), torch.as_tensor(self.std(*x.unbind(-1))).log().expand(len(x))], -1
        )


class LinearSets:
    """c ~ N(0, 1), z ~ N(a c, s^2), x ~ N(b z + d c, t^2): everything can be integrated by hand."""

    a, b, d, s, t = 0.8, 1.5, -0.4, 0.7, 0.3
    gain = a * b + d  # of c in x
    noise = (b * s) ** 2 + t**2  # variance of x given c

    def posterior(self, mean, log_n):
        """Mean and standard deviation of c given the mean and the number of examples."""
        n = log_n.exp()
        precision = 1 + n * self.gain**2 / self.noise
        return n * self.gain * mean / self.noise / precision, precision.rsqrt()

    def model(self, shift=0.0, stretch=1.0):
        """The statistician whose posteriors are exact, but for a shift and a stretch of that of c."""
        precision = 1 / self.s**2 + self.b**2 / self.t**2
        return NeuralStatistician(
            nn.Identity(),
            Row(lambda m, k: self.posterior(m, k)[0] + shift, lambda m, k: stretch * self.posterior(m, k)[1]),
            Row(
                lambda x, c: (self.a * c / self.s**2 + self.b * (x - self.d * c) / self.t**2) / precision,
                lambda x, c: torch.tensor(precision, dtype=torch.float64).rsqrt(),
            ),
            Row(lambda c: self.a * c, lambda c: torch.tensor(self.s, dtype=torch.float64)),
            Row(lambda z, c: self.b * z + self.d * c, lambda z, c: torch.tensor(self.t, dtype=torch.float64)),
            normal,
        )  # fmt: skip

    def evidence(self, x):
        """log p(D) of one set `(n,)`."""
        covariance = self.gain**2 * torch.ones(len(x), len(x)).double() + self.noise * torch.eye(len(x)).double()
        return MultivariateNormal(torch.zeros(len(x)).double(), covariance).log_prob(x)


def expected_bound(model, x):
    """The bound's expectation over its noise, exactly: it is quadratic in it, so the values 1 and -1 are enough."""
    signs = torch.tensor(list(product([1.0, -1.0], repeat=1 + len(x)))).double()  # (2^(n + 1), n + 1)
    bound = model.bound(x[None, :, None].expand(len(signs), -1, -1), Noise(signs[:, :1], signs[:, 1:].reshape(-1, 1)))
    return bound.total.mean()


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_bound_is_the_evidence_at_the_true_posterior(n):
    family, x = LinearSets(), 2 * doubles(n)
    torch.testing.assert_close(expected_bound(family.model(), x), family.evidence(x))


@pytest.mark.parametrize(("shift", "stretch"), [(0.3, 1.0), (0.0, 2.0), (0.0, 0.4), (-1.0, 1.3)])
def test_the_bound_misses_the_evidence_by_the_divergence_from_the_true_posterior(shift, stretch):
    family, x = LinearSets(), 2 * doubles(4)
    missed = family.evidence(x) - expected_bound(family.model(shift, stretch), x)
    mean, std = family.posterior(x.mean(), torch.tensor(4.0, dtype=torch.float64).log())
    exact = kl(Normal((mean + shift)[None], (stretch * std)[None]), Normal(mean[None], std[None]))
    torch.testing.assert_close(missed, exact)
    assert missed > 0


def test_the_density_of_a_new_example_is_the_exact_predictive_one():
    family, x, new = LinearSets(), doubles(4), torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    model = family.model()
    posterior = model.context(x[None, :, None])
    estimate = model.log_density(posterior, new[None, :, None], samples=4000, generator=generator())[0]
    mean, std = family.posterior(x.mean(), torch.tensor(4.0, dtype=torch.float64).log())
    exact = Normal(family.gain * mean, (family.noise + (family.gain * std) ** 2).sqrt()).log_prob(new)
    torch.testing.assert_close(estimate, exact, rtol=0, atol=0.03)


# the bound against its definition


@pytest.mark.parametrize("likelihood", [normal, bernoulli])
@pytest.mark.parametrize("counts", [True, False])
def test_the_bound_is_its_definition_written_as_a_loop(likelihood, counts):
    model = statistician(likelihood=likelihood, counts=counts)
    sets = doubles(3, 4, 2) if likelihood is normal else (doubles(3, 4, 2) > 0).double()
    noise = Noise(doubles(3, 3, seed=1), doubles(12, 2, seed=2))
    expected = []
    for k, members in enumerate(sets):
        pooled = torch.stack([model.encoder(x[None])[0] for x in members]).mean(0)
        pooled = torch.cat([pooled, torch.tensor([math.log(4)]).double()]) if counts else pooled
        posterior = normal(model.statistic(pooled))
        c = posterior.mean + posterior.stddev * noise.context[k]
        cost = kl_divergence(posterior, Normal(torch.zeros(3).double(), torch.ones(3).double())).sum()
        reconstruction, latent = 0, 0
        for i, x in enumerate(members):
            q = normal(model.inference(torch.cat([model.encoder(x[None])[0], c])))
            z = q.mean + q.stddev * noise.latent[4 * k + i]
            latent += kl_divergence(q, normal(model.prior(c))).sum()
            reconstruction += likelihood(model.decoder(torch.cat([z, c]))).log_prob(x).sum()
        expected.append(torch.stack([reconstruction, latent, cost]))
    torch.testing.assert_close(torch.stack(model.bound(sets, noise), -1), torch.stack(expected))
    torch.testing.assert_close(model.bound(sets, noise).total, torch.stack([r - z - c for r, z, c in expected]))


@pytest.mark.parametrize("counts", [True, False])
def test_the_order_of_a_set_does_not_matter(counts):
    model, sets, order = statistician(counts=counts), doubles(3, 5, 2), torch.tensor([4, 2, 0, 1, 3])
    noise, codes = Noise(doubles(3, 3, seed=1), doubles(3, 5, 2, seed=2)), model.context(sets)
    turned = model.context(sets[:, order])
    torch.testing.assert_close(turned.mean, codes.mean)
    torch.testing.assert_close(turned.stddev, codes.stddev)
    once = model.bound(sets, Noise(noise.context, noise.latent.flatten(0, 1)))
    again = model.bound(sets[:, order], Noise(noise.context, noise.latent[:, order].flatten(0, 1)))
    torch.testing.assert_close(again, once)


def test_examples_given_twice_count_only_for_a_statistician_that_counts():
    sets = doubles(3, 5, 2)
    for counts in (True, False):
        model = statistician(counts=counts)
        once, twice = model.context(sets), model.context(torch.cat([sets, sets], 1))
        assert torch.allclose(once.mean, twice.mean) != counts


def test_the_bound_has_the_derivatives_of_finite_differences():
    model, noise = statistician(), Noise(doubles(2, 3, seed=1), doubles(6, 2, seed=2))
    sets = doubles(2, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda sets: tuple(model.bound(sets, noise)), (sets,))


def test_a_generator_decides_the_noise():
    model, sets = statistician(), doubles(2, 3, 2)
    first, second = (model.bound(sets, generator=generator(5)).total for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, model.bound(sets, generator=generator(6)).total)


# new examples


def test_imagined_examples_have_the_shape_of_real_ones_and_follow_the_generator(device):
    model = statistician(likelihood=lambda p: bernoulli(p.unflatten(-1, (1, 2, 2))), features=4, device=device)
    context = doubles(3, 3).to(device)
    new = model.imagine(context, 7, torch.Generator(device).manual_seed(0))
    assert new.mean.shape == (3, 7, 1, 2, 2) and (0 < new.mean).all() and (new.mean < 1).all()
    again = model.imagine(context, 7, torch.Generator(device).manual_seed(0))
    assert torch.equal(again.mean, new.mean)
    assert not torch.equal(model.imagine(context, 7, torch.Generator(device).manual_seed(1)).mean, new.mean)


def test_imagined_examples_have_the_moments_of_the_model():
    family, at = LinearSets(), generator()
    x = draw(family.model().imagine(torch.tensor([[1.3], [-0.5]], dtype=torch.float64), 50_000, at), at)[..., 0]
    torch.testing.assert_close(
        x.mean(1), family.gain * torch.tensor([1.3, -0.5], dtype=torch.float64), rtol=0, atol=0.03
    )
    torch.testing.assert_close(x.var(1), torch.full((2,), family.noise).double(), rtol=0.03, atol=0)


# episodes


def still(ways=3, likelihood=normal):
    """A statistician whose posteriors are so narrow that its bound does not depend on the noise."""
    model = statistician(ways=ways, likelihood=likelihood)
    with torch.no_grad():
        for network, d in ((model.statistic, 3), (model.inference, 2)):
            network[-1].weight[d:] = 0
            network[-1].bias[d:] = -25
    return model


def test_the_loss_is_minus_the_bound_of_every_class_per_example():
    """Also where classes differ in size, and one is absent."""
    episode = classification(tasks=2, shape=(2,), shots=2, queries=2)
    y = torch.tensor([[0, 0, 0, 1, 2, 2], [2, 2, 0, 0, 0, 0]])
    episode = Episode(Set(episode.support.x, y), episode.query)
    model, totals = still(ways=4), []
    for task in range(2):
        x = torch.cat([part.x[task] for part in episode])
        labels = torch.cat([part.y[task] for part in episode])
        totals += [model.bound(x[labels == k][None]).total for k in labels.unique()]
    torch.testing.assert_close(model.meta_loss(episode), -torch.cat(totals).sum() / 24)


def test_a_batch_of_tasks_is_a_loop_over_tasks(device):
    episode, model = classification(shape=(2,), device=device), statistician(device=device)
    prediction = model(episode)
    for task in range(episode.tasks):
        state = model.adapt(Set(episode.support.x[task], episode.support.y[task]))
        torch.testing.assert_close(model.predict(state, episode.query.x[task]), prediction[task])
    torch.testing.assert_close(model.loss_and_prediction(episode)[1], prediction)


def test_a_query_is_given_to_the_class_whose_context_its_own_resembles():
    """Logits are minus the divergence of torch, from the class's posterior to that of the query alone."""
    episode, model = classification(tasks=1, shape=(2,)), statistician()
    state = model.adapt(Set(episode.support.x[0], episode.support.y[0]))
    for x, logits in zip(episode.query.x[0], model(episode)[0], strict=True):
        alone = model.context(x[None, None])
        for k, logit in enumerate(logits):
            members = episode.support.x[0][episode.support.y[0] == k]
            torch.testing.assert_close(logit, -kl_divergence(model.context(members[None]), alone).sum())
    assert state.counts.tolist() == [2, 2, 2]


def test_neither_the_order_of_the_support_nor_the_names_of_the_classes_matter():
    episode, model = classification(shape=(2,)), statistician()
    order, names = torch.tensor([3, 0, 5, 1, 4, 2]), torch.tensor([2, 0, 1])
    changed = Episode(
        Set(episode.support.x[:, order], names[episode.support.y[:, order]]),
        Set(episode.query.x, names[episode.query.y]),
    )
    torch.testing.assert_close(model(changed)[..., names], model(episode))


def test_more_ways_than_the_episode_has_changes_nothing():
    episode = classification(shape=(2,))
    few, many = still(ways=3), still(ways=7)
    torch.testing.assert_close(many(episode)[..., :3], few(episode))
    assert (many(episode)[..., 3:] == -torch.inf).all()
    torch.testing.assert_close(many.meta_loss(episode), few.meta_loss(episode))


def test_the_meta_gradient_is_that_of_finite_differences():
    episode, model = classification(shape=(2,)), statistician()
    loss = model.meta_loss
    model.meta_loss = lambda episode: (torch.manual_seed(1), loss(episode))[1]  # the same noise at every call
    finite, exact = slopes(model, episode, step=1e-6)
    torch.testing.assert_close(finite, exact, rtol=1e-5, atol=1e-8)


class Pairs(TaskDistribution):
    """Two sets of numbers around -2 and 2, with names dealt at random."""

    device = torch.device("cpu")

    def sample(self, n, generator):
        self._check(n, generator)
        swap = torch.randint(2, (n, 1), generator=generator)
        y = (torch.arange(6) % 2 + swap) % 2
        x = 4.0 * (torch.arange(6) % 2)[:, None] - 2 + torch.randn(n, 6, 1, generator=generator)
        return Episode(Set(x, y), Set(x.flip(1), y.flip(1)))


def test_it_learns_to_tell_sets_apart_and_what_they_cost():
    """After training the loss is near the entropy of the numbers, 1.42 nats, and a number tells its set."""
    model = statistician(features=1, ways=2).float()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    history = meta_train(model, Pairs(), steps=300, optimizer=optimizer, meta_batch=8, progress=False)
    assert sum(history.loss[:20]) / 20 > 2.2 > 1.95 > sum(history.loss[-50:]) / 50
    assert sum(history.score[-50:]) / 50 > 0.9


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda m: m.context(torch.randn(4, 2)), r"sets need shape \(sets, examples, \*features\).*got \(4, 2\)"),
        (lambda m: m.bound(torch.randn(3, 0, 2)), r"none of them empty, got \(3, 0, 2\)"),
        (lambda m: m.imagine(torch.randn(2, 3), 0), "examples must be a positive integer, got 0"),
        (lambda m: m.log_density(gaussians(1, 3), torch.randn(1, 2, 2), samples=0), "samples must be a positive"),
        (lambda m: draw(Uniform(0.0, 1.0)), "draw knows Normal and Bernoulli, got Uniform"),
        (lambda m: statistician(ways=1), "at least 2 ways, got 1"),
        (lambda m: statistician(ways=None).meta_loss(classification(shape=(2,))), "need a statistician with ways"),
        (lambda m: statistician(ways=None).adapt(Set(torch.randn(2, 2), torch.zeros(2).long())), "with ways"),
        (lambda m: statistician(ways=2).meta_loss(classification(shape=(2,))), "labels of|0..1 for 2 ways"),
    ],
)
def test_bad_input_is_refused(action, message):
    with pytest.raises(ValueError, match=message):
        action(statistician())
