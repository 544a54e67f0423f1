"""Generalisation across tasks: the exact excess risk, PAC-Bayes bounds, and learners that may ignore their support."""

import math

import pytest
import torch

from metabook.theory.generalization_across_tasks import (
    CodedTasks,
    RegularisedProcess,
    bernoulli_kl,
    excess_risk,
    kl_inverse,
    pac_bayes_bound,
    support_use,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("tasks", "shots", "new_shots"), [(3, 4, 1), (10, 2, 5)])
def test_the_excess_risk_is_what_a_simulation_finds(tasks, shots, new_shots):
    d, spread, noise, runs, g = 3, 1.3, 0.8, 20_000, generator()

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    w = spread * normal(runs, d)  # the true prior mean is 0
    estimate = w + noise / math.sqrt(new_shots) * normal(runs, d)
    seen = spread * normal(runs, tasks, d) + noise / math.sqrt(shots) * normal(runs, tasks, d)
    trust = spread**2 / (spread**2 + noise**2 / new_shots)
    risks = [(trust * estimate + (1 - trust) * m - w).square().sum(-1) for m in (seen.mean(1), 0.0)]
    difference = risks[0] - risks[1]
    error = difference.std() / runs**0.5
    expected = excess_risk(tasks, shots, new_shots, d, spread, noise)
    assert abs(difference.mean() - expected) < 4 * error


def test_the_inverse_of_the_divergence():
    q, budget = torch.rand(50, generator=generator()).double(), torch.rand(50, generator=generator(1)).double()
    p = kl_inverse(q, budget)
    assert (p >= q).all() and (p <= 1).all()
    torch.testing.assert_close(bernoulli_kl(q, p), budget, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(kl_inverse(q, torch.zeros(())), q)
    torch.testing.assert_close(
        kl_inverse(torch.zeros(1), torch.tensor(0.3)), torch.tensor([1 - math.exp(-0.3)]).double()
    )
    with pytest.raises(ValueError, match="budget be 0 or more"):
        kl_inverse(q, torch.tensor(-1.0))


def test_the_lemma_behind_the_bound():
    """E exp(n kl(mean || p)) <= 2 sqrt(n), by summing over all outcomes of n coins."""
    for n in (8, 20, 100):
        k = torch.arange(n + 1).double()
        for p in (0.05, 0.3, 0.5):
            log_choose = torch.lgamma(torch.tensor(n + 1.0)) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
            log_p = log_choose + k * math.log(p) + (n - k) * math.log(1 - p)
            value = (log_p + n * bernoulli_kl(k / n, torch.tensor(p).double())).exp().sum()
            assert 1 <= value <= 2 * math.sqrt(n)


def test_the_bound_holds_as_often_as_it_says():
    """One hypothesis, no divergence: the bound is a confidence bound for a coin."""
    n, p, delta, runs = 30, 0.2, 0.1, 4000
    means = (torch.rand(runs, n, generator=generator()) < p).double().mean(1)
    covered = pac_bayes_bound(means, torch.zeros(()), n, delta) >= p
    assert covered.double().mean() >= 1 - delta
    with pytest.raises(ValueError, match="at least 8 examples"):
        pac_bayes_bound(means, torch.zeros(()), 5, delta)


def test_a_code_tells_the_known_tasks_apart():
    tasks = CodedTasks(3, noise=1e-6)
    x, y = tasks.sample(40, tasks.generator(0)).support
    codes = x[:, 0, 2:]
    assert len(codes.unique(dim=0)) == 3
    for task in range(40):
        row = int(torch.cdist(codes[task : task + 1], tasks.known[1]).argmin())
        torch.testing.assert_close(x[task, :, :2] @ tasks.known[0][row], y[task, :, 0], rtol=1e-4, atol=1e-4)
    assert len(CodedTasks(3, shuffle=True).sample(40, generator()).support.x[:, 0, 2:].unique(dim=0)) == 40
    assert len(CodedTasks(None).sample(40, generator()).support.x[:, 0, 2:].unique(dim=0)) == 40


def test_the_charge_is_what_passes_through_the_noise():
    """The mutual information of jointly normal x and z is -log(1 - correlation^2) / 2 for each coordinate."""
    learner = RegularisedProcess(3, strength=0.5)
    with torch.no_grad():
        learner.log_noise.copy_(torch.tensor([-2.0, 0.0, 1.5]))
    s = learner.log_noise.exp()
    squared_correlation = 1 / (1 + s)
    torch.testing.assert_close(learner.charge(), -0.5 * (1 - squared_correlation).log().sum())
    with pytest.raises(ValueError, match="strength"):
        RegularisedProcess(6, strength=-1.0)


def test_the_loss_is_the_error_through_the_noise_and_the_charge():
    torch.manual_seed(0)
    learner, episode = RegularisedProcess(6, strength=0.5), CodedTasks(None).sample(3, generator())
    torch.manual_seed(1)
    loss, prediction = learner.loss_and_prediction(episode)
    expected = (prediction - episode.query.y).square().mean() + 0.5 * learner.charge()
    torch.testing.assert_close(loss, expected)
    with torch.no_grad():
        learner.log_noise.fill_(-40.0)  # no noise: the training prediction is the ordinary one
        torch.testing.assert_close(learner.loss_and_prediction(episode)[1], learner(episode), rtol=1e-4, atol=1e-5)


def test_without_a_charge_the_loss_is_that_of_the_predictions():
    torch.manual_seed(0)
    learner, episode = RegularisedProcess(6), CodedTasks(None).sample(3, generator())
    loss, prediction = learner.loss_and_prediction(episode)
    torch.testing.assert_close(loss, (learner(episode) - episode.query.y).square().mean())
    assert prediction.shape == (3, 10, 1)


def test_a_learner_that_ignores_its_support_does_not_use_it():
    torch.manual_seed(0)
    learner, episode = RegularisedProcess(6), CodedTasks(None).sample(5, generator())
    assert (support_use(learner, episode) > 0).all()
    for parameter in learner.encoder[-1].parameters():
        parameter.data.zero_()
    assert support_use(learner, episode).max() == 0
