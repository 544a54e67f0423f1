"""Draws from Gaussian processes have the stated covariance; the posterior is exact."""

import math

import pytest
import torch

from metabook import Set
from metabook.tasks import GaussianProcess
from metabook.tasks.gaussian_process import RBF, Matern, Periodic, log_evidence, marginals, posterior

KERNELS = [RBF(0.4), Matern(0.7), Periodic(0.9, 1.3)]


def points(*shape, seed=0):
    return torch.rand(*shape, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 4 - 2


@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_kernels_are_one_at_distance_zero_symmetric_and_positive(kernel):
    x = points(3, 20)
    k = kernel(x, x)
    torch.testing.assert_close(k.diagonal(dim1=-2, dim2=-1), torch.ones(3, 20, dtype=torch.float64))
    torch.testing.assert_close(k, k.mT)
    assert torch.linalg.eigvalsh(k).min() > -1e-9
    torch.testing.assert_close(kernel(x + 1.7, x + 1.7), k)


def test_kernels_at_one_distance_by_hand():
    a, b = torch.zeros(1, 1, dtype=torch.float64), torch.full((1, 1), 0.3, dtype=torch.float64)
    assert RBF(0.6)(a, b).item() == pytest.approx(math.exp(-0.125))
    assert Matern(0.3 * math.sqrt(3))(a, b).item() == pytest.approx(2 / math.e)
    assert Periodic(1.0, 0.6)(a, b).item() == pytest.approx(math.exp(-2))
    assert Periodic(1.0, 0.3)(a, b).item() == pytest.approx(1.0)


@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_posterior_is_the_conditional_of_the_joint_normal(kernel):
    """By the precision matrix of all points together: another route to the same distribution."""
    x, noise = points(2, 9), 0.2
    y = torch.randn(2, 5, 1, dtype=torch.float64)
    support, queries = Set(x[:, :5], y), x[:, 5:]
    precision = torch.linalg.inv(kernel(x, x) + noise**2 * torch.eye(9, dtype=torch.float64))
    covariance = torch.linalg.inv(precision[:, 5:, 5:])
    mean = -(covariance @ precision[:, 5:, :5] @ y).squeeze(-1)
    result = posterior(kernel, noise, support, queries)
    torch.testing.assert_close(result.loc, mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(result.covariance_matrix, covariance, rtol=1e-6, atol=1e-6)


def test_without_noise_the_posterior_passes_through_the_points():
    x = torch.linspace(-2, 2, 6, dtype=torch.float64)[None, :, None]
    y = torch.randn(1, 6, 1, dtype=torch.float64)
    result = posterior(RBF(0.5), 0.0, Set(x, y), x)
    torch.testing.assert_close(result.loc, y.squeeze(-1), rtol=0, atol=1e-6)
    assert result.variance.max() < 1e-7


def test_without_points_the_posterior_is_the_prior():
    x = points(2, 4)
    result = posterior(RBF(), 0.3, Set(x[:, :0], x[:, :0]), x)
    torch.testing.assert_close(result.loc, torch.zeros(2, 4, dtype=torch.float64))
    torch.testing.assert_close(result.variance, torch.full((2, 4), 1.09, dtype=torch.float64))


def test_evidence_and_posterior_obey_the_product_rule():
    """p(support) p(query | support) = p(support, query)."""
    kernel, noise, x = Matern(), 0.2, points(3, 8)
    y = torch.randn(3, 8, 1, dtype=torch.float64)
    support = Set(x[:, :5], y[:, :5])
    rest = posterior(kernel, noise, support, x[:, 5:]).log_prob(y[:, 5:, 0])
    torch.testing.assert_close(log_evidence(kernel, noise, support) + rest, log_evidence(kernel, noise, Set(x, y)))


def test_draws_have_the_covariance_of_the_kernel():
    tasks = GaussianProcess(Matern(0.6), noise=0.3)
    x = torch.linspace(-1, 1, 5)[None, :, None].expand(40_000, -1, -1)
    y = tasks.values(x, tasks.generator(0)).squeeze(-1)
    expected = Matern(0.6)(x[0], x[0]) + 0.09 * torch.eye(5)
    torch.testing.assert_close(y.T.cov(), expected, rtol=0, atol=0.03)


def test_the_best_prediction_of_a_mixture_weighs_the_kernels_by_bayes_rule():
    """The product rule again, for the mixture: its joint density is the ratio of two sums of evidences."""
    tasks = GaussianProcess(KERNELS, shots=6, queries=4)
    support, query = tasks.sample(5, tasks.generator(0)).to(torch.float64)
    everything = Set(*(torch.cat(both, 1) for both in zip(support, query, strict=True)))
    before, after = (
        torch.stack([log_evidence(kernel, tasks.noise, part) for kernel in KERNELS]).logsumexp(0)
        for part in (support, everything)
    )
    result = tasks.posterior(support, query.x)
    torch.testing.assert_close(result.log_prob(query.y.squeeze(-1)), after - before)


def test_one_kernel_is_a_mixture_of_one():
    tasks = GaussianProcess(RBF(), shots=6, queries=4)
    support, query = tasks.sample(5, tasks.generator(0))
    alone = posterior(RBF(), tasks.noise, support, query.x)
    torch.testing.assert_close(tasks.posterior(support, query.x).mean, alone.mean)


def test_marginals_are_the_posterior_of_one_target_at_a_time():
    tasks = GaussianProcess(KERNELS, shots=6, queries=4)
    support, query = tasks.sample(5, tasks.generator(0))
    together = marginals(tasks.posterior(support, query.x)).log_prob(query.y.double())
    single = marginals(posterior(RBF(), 0.1, support, query.x)).log_prob(query.y.double())
    assert together.shape == single.shape == (5, 4)
    for q in range(4):
        x, y = query.x[:, q : q + 1], query.y[:, q].double()
        torch.testing.assert_close(tasks.posterior(support, x).log_prob(y), together[:, q])
        torch.testing.assert_close(posterior(RBF(), 0.1, support, x).log_prob(y), single[:, q])


def test_a_length_of_its_own_for_each_task():
    x, lengths = points(2, 5), torch.tensor([0.3, 0.9])
    together = RBF(lengths[:, None, None])(x, x)
    for task in range(2):
        torch.testing.assert_close(together[task], RBF(lengths[task].item())(x[task], x[task]), rtol=1e-6, atol=1e-6)


def test_posterior_is_calibrated():
    tasks = GaussianProcess(RBF(), shots=5, queries=1)
    support, query = tasks.sample(4000, tasks.generator(0))
    result = posterior(RBF(), tasks.noise, support, query.x)
    z = (query.y.squeeze(-1) - result.mean) / result.stddev
    assert (z.abs() < 1.6449).double().mean().item() == pytest.approx(0.9, abs=0.012)


def test_episodes_have_the_stated_shapes_and_numbers(device):
    tasks = GaussianProcess(KERNELS, shots=(3, 6), queries=7, inputs=(1.0, 3.0), device=device)
    generator, seen = tasks.generator(0), set()
    for _ in range(30):
        support, query = tasks.sample(4, generator)
        seen.add(support.x.shape[1])
        assert query.x.shape == query.y.shape == (4, 7, 1) and support.x.shape == support.y.shape
        assert query.x.min() >= 1 and query.x.max() <= 3 and query.y.dtype == torch.float32
    assert seen == {3, 4, 5, 6}
    same, again = (tasks.sample(4, tasks.generator(5)) for _ in range(2))
    assert torch.equal(same.query.y, again.query.y)


def test_bad_arguments():
    with pytest.raises(ValueError, match="shots must be a positive integer, got 0"):
        GaussianProcess(shots=0)
    with pytest.raises(ValueError, match=r"low first, got shots \(5, 3\)"):
        GaussianProcess(shots=(5, 3))
    with pytest.raises(ValueError, match="cannot be negative, got -1"):
        GaussianProcess(noise=-1)
    with pytest.raises(ValueError, match="one kernel or several"):
        GaussianProcess([])
    with pytest.raises(ValueError, match=r"one output, .* got \(1, 3, 2\)"):
        log_evidence(RBF(), 0.1, Set(torch.zeros(1, 3, 1), torch.zeros(1, 3, 2)))
    tasks = GaussianProcess()
    with pytest.raises(ValueError, match="n=0"):
        tasks.sample(0, tasks.generator(0))
