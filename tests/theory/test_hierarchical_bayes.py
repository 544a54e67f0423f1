"""The posterior against conditioning, EM against gradients, early stopping against its prior, Stein against draws."""

import pytest
import torch
from examples import regression
from torch.distributions import MultivariateNormal
from torch.func import vmap

from metabook import MAML, Episode, Set, meta_train
from metabook.tasks import LinearGaussian
from metabook.theory.hierarchical_bayes import (
    EmpiricalBayes,
    Prior,
    descent_gain,
    early_stopping_prior,
    empirical_bayes,
    james_stein,
    james_stein_risk,
    linear_risk,
    log_marginal,
    posterior,
    predictive,
)


def doubles(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def some_prior(features=3, device="cpu"):
    root = doubles(features, features)
    covariance = root @ root.mT + 0.1 * torch.eye(features).double()
    return Prior(doubles(features).to(device), covariance.to(device), torch.tensor(0.7).double().to(device))


def drawn(prior, tasks, examples, leading=()):
    """Examples of tasks from a prior, on the CPU, and the weights of the tasks."""
    prior = Prior(*(part.cpu() for part in prior))
    root = torch.linalg.cholesky(prior.covariance)
    w = prior.mean + doubles(*leading, tasks, len(prior.mean)) @ root.mT
    x = doubles(*leading, tasks, examples, len(prior.mean))
    return Set(x, x @ w[..., None] + prior.noise * doubles(*leading, tasks, examples, 1)), w


# the posterior


@pytest.mark.parametrize("examples", [1, 3, 7])
def test_posterior_and_marginal_are_those_of_the_joint_gaussian(examples, device):
    prior = some_prior(device=device)
    support = Set(*(part.to(device) for part in drawn(prior, 5, examples)[0]))
    belief, log_p = posterior(prior, support), log_marginal(prior, support)
    for t in range(5):
        x, y = support.x[t], support.y[t, :, 0]
        spread = x @ prior.covariance @ x.T + prior.noise**2 * torch.eye(examples).to(x)
        gain = prior.covariance @ x.T @ torch.linalg.inv(spread)
        torch.testing.assert_close(belief.mean[t], prior.mean + gain @ (y - x @ prior.mean))
        torch.testing.assert_close(belief.covariance[t], prior.covariance - gain @ x @ prior.covariance)
        torch.testing.assert_close(log_p[t], MultivariateNormal(x @ prior.mean, spread).log_prob(y))


def test_posterior_of_the_library_s_own_family():
    tasks = LinearGaussian(4, 3, 2, prior_mean=0.5, prior_std=1.5, noise=0.3, dtype=torch.float64)
    support = tasks.sample(6, tasks.generator(0)).support
    prior = Prior(torch.full((4,), 0.5).double(), 1.5**2 * torch.eye(4).double(), torch.tensor(0.3).double())
    for ours, theirs in zip(posterior(prior, support), tasks.posterior(support), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_posterior_with_a_singular_prior_stays_where_the_prior_is():
    direction = doubles(3)
    prior = Prior(doubles(3), torch.outer(direction, direction), torch.tensor(0.5).double())
    support, _ = drawn(some_prior(), 4, 6)
    belief = posterior(prior, support)
    apart = belief.mean - prior.mean
    along = (apart @ direction / direction.square().sum())[:, None] * direction
    torch.testing.assert_close(apart, along)
    assert log_marginal(prior, support).isfinite().all()


def test_one_example_after_the_other_is_all_at_once():
    prior = some_prior()
    support, _ = drawn(prior, 4, 5)
    belief, log_p = prior, 0.0
    for i in range(5):
        one = Set(*(part[:, i : i + 1] for part in support))
        log_p = log_p + log_marginal(belief, one)
        belief = Prior(*posterior(belief, one), prior.noise)
    whole = posterior(prior, support)
    torch.testing.assert_close(belief.mean, whole.mean)
    torch.testing.assert_close(belief.covariance, whole.covariance)
    torch.testing.assert_close(log_p, log_marginal(prior, support))


def test_predictive_is_the_joint_gaussian_conditioned():
    prior = some_prior()
    support, _ = drawn(prior, 3, 4)
    x = doubles(3, 2, 3)
    distribution = predictive(posterior(prior, support), prior.noise, x)
    assert distribution.mean.shape == (3, 2, 1)
    for t in range(3):
        for q in range(2):
            both = torch.cat([support.x[t], x[t, q : q + 1]])
            joint = both @ prior.covariance @ both.T + prior.noise**2 * torch.eye(5).double()
            gain = torch.linalg.solve(joint[:4, :4], joint[:4, 4])
            variance = joint[4, 4] - gain @ joint[:4, 4]
            mean = x[t, q] @ prior.mean + gain @ (support.y[t, :, 0] - support.x[t] @ prior.mean)
            torch.testing.assert_close(distribution.mean[t, q, 0], mean)
            torch.testing.assert_close(distribution.variance[t, q, 0], variance)


def test_exact_risk_of_a_linear_estimator_is_what_simulation_finds():
    prior, start, x = some_prior(), doubles(3), doubles(1, 4, 3)
    gain = 0.2 * doubles(1, 3, 4)
    w = prior.mean + doubles(200_000, 3) @ torch.linalg.cholesky(prior.covariance).mT
    surprise = (w - start) @ x[0].T + prior.noise * doubles(200_000, 4)
    error = (start + surprise @ gain[0].T - w).square().sum(-1)
    half = 4 * error.std() / len(error) ** 0.5
    assert (linear_risk(gain, x, prior, start) - error.mean()).abs() < half


def test_the_posterior_mean_has_the_least_exact_risk_and_it_is_the_trace():
    prior, x = some_prior(), doubles(1, 4, 3)
    covariance = posterior(prior, Set(x, doubles(1, 4, 1))).covariance
    gain = (covariance @ x.mT / prior.noise**2).requires_grad_()
    risk = linear_risk(gain, x, prior)
    torch.testing.assert_close(risk, covariance.diagonal(dim1=-1, dim2=-2).sum(-1))
    (slope,) = torch.autograd.grad(risk.sum(), gain)
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-10, rtol=0)


# empirical Bayes


def test_em_never_lowers_the_likelihood_and_ends_where_its_gradient_vanishes():
    support, _ = drawn(some_prior(), 60, 6)
    fit = empirical_bayes(support, steps=400)
    assert fit.log_likelihood.shape == (401,)
    assert (fit.log_likelihood.diff() > -1e-9).all()
    parts = [part.clone().requires_grad_() for part in fit.prior]
    total = log_marginal(Prior(*parts), support).sum()
    torch.testing.assert_close(total, fit.log_likelihood[-1])
    for slope in torch.autograd.grad(total, parts):
        torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-3, rtol=0)


def test_em_finds_the_prior():
    prior = some_prior()
    support, _ = drawn(prior, 4000, 8)
    found = empirical_bayes(support, steps=50).prior
    torch.testing.assert_close(found.mean, prior.mean, atol=0.15, rtol=0)
    torch.testing.assert_close(found.covariance, prior.covariance, atol=0.4, rtol=0.1)
    torch.testing.assert_close(found.noise, prior.noise, atol=0.02, rtol=0)


def test_collections_of_tasks_are_learned_as_if_alone():
    support, _ = drawn(some_prior(), 20, 5, leading=(2, 3))
    together = empirical_bayes(support, steps=5)
    assert together.prior.covariance.shape == (2, 3, 3, 3)
    for i in range(2):
        for j in range(3):
            alone = empirical_bayes(Set(support.x[i, j], support.y[i, j]), steps=5)
            for a, b in zip(together.prior, alone.prior, strict=True):
                torch.testing.assert_close(a[i, j], b)
            torch.testing.assert_close(together.log_likelihood[:, i, j], alone.log_likelihood)


def test_em_can_go_on_where_it_stopped():
    support, _ = drawn(some_prior(), 20, 5)
    half = empirical_bayes(support, steps=4)
    whole = empirical_bayes(support, steps=7)
    rest = empirical_bayes(support, steps=3, start=half.prior)
    torch.testing.assert_close(rest.log_likelihood, whole.log_likelihood[4:])


def test_the_learner_takes_over_a_prior_and_learns_one():
    prior = some_prior()
    support, _ = drawn(prior, 40, 8)
    episode = Episode(Set(support.x[:, :5], support.y[:, :5]), Set(support.x[:, 5:], support.y[:, 5:]))
    learner = EmpiricalBayes(3).double().set_prior(prior)
    for ours, theirs in zip(learner.prior, prior, strict=True):
        torch.testing.assert_close(ours.detach(), theirs)
    belief = posterior(prior, episode.support)
    torch.testing.assert_close(learner(episode).detach(), predictive(belief, prior.noise, episode.query.x).mean)
    torch.testing.assert_close(learner.meta_loss(episode).detach(), -log_marginal(prior, support).mean() / 8)
    state = vmap(learner.adapt)(episode.support)
    torch.testing.assert_close(learner.distribution(state, episode.query.x).mean, learner(episode))

    fit = empirical_bayes(support, steps=300)
    learner.set_prior(fit.prior).meta_loss(episode).backward()
    for parameter in learner.parameters():  # the maximum of EM is the minimum of the meta-loss
        torch.testing.assert_close(parameter.grad, torch.zeros_like(parameter), atol=1e-4, rtol=0)


def test_meta_training_learns_the_prior():
    tasks = LinearGaussian(3, shots=5, queries=5, prior_mean=1.0, prior_std=0.5, noise=0.5)
    learner = EmpiricalBayes(3)
    optimizer = torch.optim.Adam(learner.parameters(), lr=0.03)
    meta_train(learner, tasks, steps=200, meta_batch=50, optimizer=optimizer, seed=0)
    mean, covariance, noise = (part.detach() for part in learner.prior)
    torch.testing.assert_close(mean, torch.ones(3), atol=0.1, rtol=0)
    torch.testing.assert_close(covariance, 0.25 * torch.eye(3), atol=0.1, rtol=0)
    torch.testing.assert_close(noise, torch.tensor(0.5), atol=0.05, rtol=0)


def test_the_learner_s_gradient_by_finite_differences():
    episode = regression(features=2)
    learner = EmpiricalBayes(2).double()

    def loss(*parameters):
        state = dict(zip(dict(learner.named_parameters()), parameters, strict=True))
        return torch.func.functional_call(_Loss(learner), {f"learner.{k}": v for k, v in state.items()}, (episode,))

    assert torch.autograd.gradcheck(loss, tuple(learner.parameters()))


class _Loss(torch.nn.Module):
    def __init__(self, learner):
        super().__init__()
        self.learner = learner

    def forward(self, episode):
        return self.learner.meta_loss(episode)


# early stopping


def spd(features):
    root = doubles(features, features)
    return root @ root.mT / features + 0.2 * torch.eye(features).double()


@pytest.mark.parametrize("examples", [2, 4, 9])
@pytest.mark.parametrize("steps", [1, 2, 5, 40])
@pytest.mark.parametrize("matrix", [False, True])
def test_where_descent_stops_is_the_posterior_mean_of_its_prior(examples, steps, matrix):
    x, y, start = doubles(5, examples, 4), doubles(5, examples, 1), doubles(4)
    largest = (2 / examples * x.mT @ x).diagonal(dim1=-1, dim2=-2).sum(-1).max()
    reach = 0.9 if steps < 10 else 0.2  # of the longest step that does not overshoot
    rate = spd(4) if matrix else torch.tensor(1.0).double()
    rate = reach / largest * rate / (torch.linalg.eigvalsh(rate).max() if matrix else 1)
    w = start.expand(5, 4)[..., None]
    for _ in range(steps):
        w = w - (rate @ _slope(x, y, w) if matrix else rate * _slope(x, y, w))
    stopped = start + (descent_gain(x, rate, steps) @ (y - x @ start[:, None])).squeeze(-1)
    torch.testing.assert_close(stopped, w.squeeze(-1))
    noise = torch.tensor(0.6).double()
    prior = Prior(start, early_stopping_prior(x, rate, steps, noise), noise)
    torch.testing.assert_close(posterior(prior, Set(x, y)).mean, w.squeeze(-1), atol=1e-8, rtol=0)


def _slope(x, y, w):
    return 2 / x.shape[-2] * x.mT @ (x @ w - y)


def test_even_steps_may_overshoot_and_odd_ones_may_not():
    x, y = doubles(1, 6, 3), doubles(1, 6, 1)
    rate = 1.6 / torch.linalg.eigvalsh(2 / 6 * x.mT @ x).max()
    noise = torch.tensor(1.0).double()
    prior = Prior(torch.zeros(3).double(), early_stopping_prior(x, rate, 2, noise), noise)
    stopped = (descent_gain(x, rate, 2) @ y).squeeze(-1)
    torch.testing.assert_close(posterior(prior, Set(x, y)).mean, stopped)
    with pytest.raises(ValueError, match="choose a smaller rate"):
        early_stopping_prior(x, rate, 3, noise)
    with pytest.raises(ValueError, match="choose a smaller rate"):
        early_stopping_prior(x, 2 * rate, 2, noise)


def test_short_steps_are_ridge_regression_towards_the_start():
    x = doubles(1, 5, 3)
    covariance = early_stopping_prior(x, 1e-7, 3, 0.5)
    unseen = early_stopping_prior(torch.zeros_like(x), 0.1, 3, 0.5)
    torch.testing.assert_close(unseen[0], 0.5**2 * 2 * 3 * 0.1 / 5 * torch.eye(3).double())
    torch.testing.assert_close(covariance[0], 0.5**2 * 2 * 3 * 1e-7 / 5 * torch.eye(3).double(), rtol=1e-4, atol=1e-14)


@pytest.mark.parametrize("steps", [1, 3])
def test_descent_is_the_library_s_maml(steps):
    episode = regression(features=3)
    learner = MAML(torch.nn.Linear(3, 1, bias=False).double(), inner_lr=0.2, inner_steps=steps)
    start = learner.network.weight.detach().T  # (3, 1)
    x, y = episode.support
    stopped = start + descent_gain(x, 0.2, steps) @ (y - x @ start)
    torch.testing.assert_close(episode.query.x @ stopped, learner(episode).detach())


# James and Stein


def test_stein_s_risk_by_the_formula_and_by_simulation():
    for d in (3, 6):
        distance = torch.tensor([0.0, 1.5, 4.0])
        theta = distance[:, None, None] * torch.nn.functional.one_hot(torch.tensor(0), d)
        z = theta + doubles(3, 400_000, d)
        error = (james_stein(z, 1.0, centre=torch.zeros(d)) - theta).square().sum(-1)
        half = 4 * error.std(-1) / 400_000**0.5
        assert ((error.mean(-1) - james_stein_risk(distance, d)).abs() < half).all()
        positive = (james_stein(z, 1.0, centre=torch.zeros(d), positive=True) - theta).square().sum(-1)
        assert (positive.mean(-1) <= error.mean(-1)).all()


def test_stein_s_risk_at_the_centre_is_two_and_far_away_is_d():
    risk = james_stein_risk(torch.tensor([0.0, 100.0]), 7)
    torch.testing.assert_close(risk, torch.tensor([2.0, 7.0]).double(), atol=3e-3, rtol=0)


def test_stein_keeps_the_mean_and_counts_in_units_of_the_noise():
    z = doubles(5, 6)
    shrunk = james_stein(z, 0.3)
    torch.testing.assert_close(shrunk.mean(-1), z.mean(-1))
    torch.testing.assert_close(james_stein(10 * z + 4, 3.0), 10 * shrunk + 4)


# bad input


def test_bad_input_is_refused():
    prior, (support, _) = some_prior(), drawn(some_prior(), 2, 4)
    with pytest.raises(ValueError, match=r"expected x \(\.\.\., examples, features\)"):
        posterior(prior, Set(support.x, support.y[..., 0]))
    with pytest.raises(ValueError, match="a prior mean of as many features"):
        log_marginal(Prior(doubles(2), prior.covariance, prior.noise), support)
    with pytest.raises(ValueError, match="at least 2 tasks"):
        empirical_bayes(Set(support.x[0], support.y[0]))
    with pytest.raises(ValueError, match="steps must be a positive integer"):
        empirical_bayes(support, steps=0)
    with pytest.raises(ValueError, match="steps must be a positive integer"):
        early_stopping_prior(support.x, 0.1, 0, 1.0)
    with pytest.raises(ValueError, match="features must be a positive integer"):
        EmpiricalBayes(0)
    with pytest.raises(ValueError, match="or 4 where their mean is the centre; got 3"):
        james_stein(doubles(3), 1.0)
    with pytest.raises(ValueError, match="from 3 dimensions on, got d = 2"):
        james_stein_risk(doubles(1), 2)
