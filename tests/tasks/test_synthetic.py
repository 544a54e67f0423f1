"""Families of tasks with known answers: their episodes fit their parameters."""

import math

import pytest
import torch

from metabook.tasks import LinearGaussian, Quadratics, Sinusoids

FAMILIES = [Sinusoids, LinearGaussian, Quadratics]


@pytest.mark.parametrize("family", FAMILIES)
def test_same_seed_same_episode(family, device):
    tasks = family(device=device)
    a, b, c = (tasks.sample(4, tasks.generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(a.support.y, b.support.y) and torch.equal(a.query.x, b.query.x)
    assert not torch.equal(a.support.y, c.support.y)
    assert a.support.x.device.type == device.type and a.tasks == 4


@pytest.mark.parametrize("family", FAMILIES)
def test_bad_arguments(family):
    tasks = family()
    with pytest.raises(ValueError, match="n=0"):
        tasks.sample(0, tasks.generator(0))
    with pytest.raises(ValueError, match="must be a positive integer, got 0"):
        family(**({"features": 0} if family is not Sinusoids else {"shots": 0}))


def test_sinusoids_are_sinusoids():
    tasks = Sinusoids(shots=50, queries=7)
    generator = tasks.generator(0)
    waves = tasks.waves(1000, generator)
    episode = tasks.episode(waves, generator)
    for part, points in zip(episode, (50, 7), strict=True):
        assert part.x.shape == part.y.shape == (1000, points, 1)
        torch.testing.assert_close(part.y, tasks.values(waves, part.x))
        assert part.x.min() >= -5 and part.x.max() <= 5
    assert 0.1 <= waves.amplitude.min() < 0.2 and 4.9 < waves.amplitude.max() <= 5
    assert 0 <= waves.phase.min() < 0.05 and math.pi - 0.05 < waves.phase.max() <= math.pi
    assert waves.amplitude.mean().item() == pytest.approx(2.55, abs=0.15)


def test_least_squares_on_sine_and_cosine_is_the_oracle():
    """a sin(x - b) is linear in sin x and cos x, so a learner who knows the family makes no error."""
    tasks = Sinusoids(shots=5, queries=20)
    episode = tasks.sample(100, tasks.generator(0)).to(torch.float64)

    def features(x):
        return torch.cat([x.sin(), x.cos()], dim=-1)

    weights = torch.linalg.lstsq(features(episode.support.x), episode.support.y).solution
    assert (features(episode.query.x) @ weights - episode.query.y).abs().max() < 1e-3


def test_noise_is_added_to_the_targets():
    tasks = Sinusoids(shots=200, noise=0.3)
    generator = tasks.generator(0)
    waves = tasks.waves(100, generator)
    support = tasks.episode(waves, generator).support
    assert (support.y - tasks.values(waves, support.x)).std().item() == pytest.approx(0.3, rel=0.02)


def test_posterior_is_the_limit_of_weighting_prior_draws():
    """Importance sampling from the prior with the likelihood as weight reaches the same mean and covariance."""
    tasks = LinearGaussian(features=2, shots=3, prior_mean=0.5, prior_std=0.8, noise=0.7, dtype=torch.float64)
    generator = tasks.generator(0)
    support = tasks.sample(1, generator).support
    draws = 0.5 + 0.8 * torch.randn(400_000, 2, generator=generator, dtype=torch.float64)
    residual = support.y[0] - support.x[0] @ draws.T  # (examples, draws)
    weight = (-(residual**2).sum(0) / (2 * 0.7**2)).softmax(0)
    mean = weight @ draws
    covariance = (draws - mean).T @ ((draws - mean) * weight[:, None])
    posterior = tasks.posterior(support)
    torch.testing.assert_close(posterior.mean[0], mean, atol=0.01, rtol=0)
    torch.testing.assert_close(posterior.covariance[0], covariance, atol=0.01, rtol=0)


def test_posterior_is_calibrated():
    """Over many tasks, the true weights lie in the 90 % intervals 90 % of the time."""
    tasks = LinearGaussian(features=3, shots=4, dtype=torch.float64)
    generator = tasks.generator(0)
    weights = tasks.weights(4000, generator)
    posterior = tasks.posterior(tasks.episode(weights, generator).support)
    z = (weights - posterior.mean) / posterior.covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    assert (z.abs() < 1.6449).double().mean().item() == pytest.approx(0.9, abs=0.012)


def test_quadratics_have_the_stated_loss_and_curvature():
    tasks = Quadratics(features=3, curvature=(0.5, 4.0))
    bowls = tasks.bowls(50, tasks.generator(0))
    episode = tasks.episode(bowls)
    eigenvalues = torch.linalg.eigvalsh(bowls.hessian)
    assert 0.5 <= eigenvalues.min() and eigenvalues.max() <= 4.0
    w = torch.randn(3, dtype=torch.float64)
    loss = (episode.query.x @ w[:, None] - episode.query.y).square().mean((1, 2))
    offset = (w - bowls.centre)[:, :, None]
    torch.testing.assert_close(loss, 0.5 * (offset.mT @ bowls.hessian @ offset).flatten())
