"""Amortised beliefs against exact ones, SVGD against its fixed point and the double sum of its definition, Bayesian
MAML against MAML, and the classifier's symmetries."""

import math

import pytest
import torch
from examples import classification, regression, slopes
from torch import nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from metabook import MAML, Episode, PrototypicalNetwork, Set
from metabook.generative.amortized_inference import (
    AddedEvidence,
    BayesianMAML,
    LinearBelief,
    PooledBelief,
    VersaClassifier,
    VersaRegression,
    svgd_direction,
)
from metabook.networks import mlp
from metabook.tasks import LinearGaussian

NOISE = 0.4


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def doubles(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


# regression with amortised beliefs

INFERENCE = {"pooled": lambda: PooledBelief(2, 8), "added": lambda: AddedEvidence(2)}


def versa(name, noise=NOISE):
    torch.manual_seed(0)
    inference = INFERENCE[name]()
    for parameter in inference.parameters():
        with torch.no_grad():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return VersaRegression(inference, noise).double()


def conjugate(features, prior_mean, prior_std, noise):
    """The parameters of `AddedEvidence` that make it Bayes' rule."""
    inference = AddedEvidence(features).double()
    with torch.no_grad():
        inference.root /= noise
        inference.prior_root /= prior_std
        inference.prior_shift += prior_mean / prior_std**2
        for k in range(features):
            inference.products[k, k, features] = 1 / noise**2
    return VersaRegression(inference, noise).double()


@pytest.mark.parametrize("shots", [1, 2, 7, 50])
def test_added_evidence_holds_the_exact_posterior(shots):
    tasks = LinearGaussian(3, shots, 4, prior_mean=1.5, prior_std=0.7, noise=NOISE, dtype=torch.float64)
    episode = tasks.sample(5, generator())
    learner = conjugate(3, 1.5, 0.7, NOISE)
    belief, exact = learner.posterior(learner.adapt(episode.support)), tasks.posterior(episode.support)
    torch.testing.assert_close(belief.mean, exact.mean)
    torch.testing.assert_close(belief.covariance_matrix, exact.covariance)
    assert kl_divergence(belief, MultivariateNormal(*exact)).max() < 1e-9


def test_the_exact_posterior_is_a_stationary_point_of_the_predictive_objective():
    """Over many tasks the expected gradient vanishes there, and does not at a belief twice as wide."""
    tasks = LinearGaussian(2, 4, 10, noise=NOISE, dtype=torch.float64)
    episode = tasks.sample(40_000, generator())
    state = LinearBelief(
        tasks.posterior(episode.support).mean, torch.linalg.cholesky(tasks.posterior(episode.support).covariance)
    )
    learner = conjugate(2, 1.0, 1.0, NOISE)

    def slope(stretch):
        factor = torch.tensor(stretch, dtype=torch.float64, requires_grad=True)
        stretched = LinearBelief(state.mean, factor * state.scale)
        loss = -learner.distribution(stretched, episode.query.x).log_prob(episode.query.y).mean()
        return torch.autograd.grad(loss, factor)[0].abs()

    assert slope(1.0) < 0.03 * slope(2.0)


@pytest.mark.parametrize("name", INFERENCE)
def test_the_prediction_is_the_belief_integrated_out(name):
    learner, episode = versa(name), regression(tasks=1, features=2)
    state = learner.adapt(episode.support)
    weights = learner.posterior(state).sample((400_000,))[:, 0]  # (samples, 2)
    values = weights @ episode.query.x[0].mT
    predicted = learner.distribution(state, episode.query.x)
    torch.testing.assert_close(predicted.mean[0, :, 0], values.mean(0), rtol=0, atol=0.02)
    torch.testing.assert_close(predicted.variance[0, :, 0], values.var(0) + NOISE**2, rtol=0.02, atol=0)


def test_a_belief_without_spread_is_the_point_estimate():
    learner, x = versa("pooled"), doubles(5, 2)
    state = LinearBelief(doubles(2), torch.zeros(2, 2).double())
    predicted = learner.distribution(state, x)
    torch.testing.assert_close(predicted.mean, x @ state.mean[:, None])
    torch.testing.assert_close(predicted.stddev, torch.full((5, 1), NOISE).double())


@pytest.mark.parametrize("name", INFERENCE)
def test_the_order_of_the_support_does_not_matter_and_its_covariance_is_positive(name):
    learner, episode = versa(name), regression(tasks=3, shots=6, features=2)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    state, other = (learner.adapt(s) for s in (episode.support, Set(*(t[:, order] for t in episode.support))))
    for a, b in zip(state, other, strict=True):
        torch.testing.assert_close(a, b)
    assert (state.scale.diagonal(dim1=-2, dim2=-1) > 0).all() and (state.scale.triu(1) == 0).all()


def test_added_evidence_narrows_with_every_example():
    learner, support = versa("added"), regression(tasks=1, shots=9, features=2).support
    sizes = [
        learner.posterior(learner.adapt(Set(*(t[:, :n] for t in support)))).covariance_matrix for n in range(1, 10)
    ]
    for larger, smaller in zip(sizes[:-1], sizes[1:], strict=True):
        assert torch.linalg.eigvalsh(larger - smaller).min() > -1e-12


@pytest.mark.parametrize("name", INFERENCE)
def test_regression_batches_are_loops_and_its_gradient_is_that_of_finite_differences(name):
    learner, episode = versa(name), regression(features=2)
    losses = torch.stack([learner.meta_loss(part) for part in episode.split(1)])
    torch.testing.assert_close(learner.meta_loss(episode), losses.mean())
    torch.testing.assert_close(learner(episode), learner.loss_and_prediction(episode)[1])
    finite, exact = slopes(learner, episode, step=1e-6)
    torch.testing.assert_close(finite, exact, rtol=1e-5, atol=1e-8)


# VERSA's classifier


def classifier(ways=3, samples=20, certain=False):
    torch.manual_seed(0)
    learner = VersaClassifier(mlp([5, 8, 6]), 6, ways, width=8, samples=samples, certain=certain).double()
    nn.init.normal_(learner.inference[-1].weight, std=0.5)  # as if it had learned something
    return learner


def test_the_draws_of_logits_are_draws_of_weights():
    """Both ways, the probabilities are the same but for chance."""
    episode, learner = classification(tasks=1), classifier(samples=100_000)
    support, x = Set(*(t[0] for t in episode.support)), episode.query.x[0]
    state = learner.adapt(support)
    h = torch.cat([learner.encoder(x), torch.ones(len(x), 1).double()], 1)
    noise = torch.randn(100_000, *state.mean.shape, generator=generator(1), dtype=torch.float64)
    by_weights = (h @ (state.mean + 2 * state.std * noise).mT).softmax(-1).mean(0)
    wide = state._replace(std=2 * state.std)
    torch.testing.assert_close(learner.predict(wide, x).exp(), by_weights, rtol=0, atol=5e-3)


def test_a_certain_classifier_is_its_mean_logits():
    episode, learner = classification(tasks=1), classifier(certain=True)
    support, x = Set(*(t[0] for t in episode.support)), episode.query.x[0]
    state = learner.adapt(support)
    mean, std = learner.logits(state, x)
    assert (std == 0).all()
    torch.testing.assert_close(learner.predict(state, x), mean.log_softmax(-1))
    uncertain = classifier()
    torch.testing.assert_close(uncertain.adapt(support).mean, state.mean)  # the same network
    draws = torch.zeros(4, 1, 1).double()
    torch.testing.assert_close(
        uncertain.distribution(*uncertain.logits(uncertain.adapt(support), x), draws).logits, mean.log_softmax(-1)
    )


def test_a_fresh_point_head_is_a_prototypical_network():
    episode, encoder = classification(), mlp([5, 8, 6]).double()
    learner = VersaClassifier(encoder, 6, 3, certain=True).double()
    expected = PrototypicalNetwork(encoder, 3)(episode).log_softmax(-1)
    torch.testing.assert_close(learner(episode), expected, rtol=1e-6, atol=1e-8)


def test_the_spread_of_a_fresh_head_falls_with_the_root_of_the_shots():
    learner, x = VersaClassifier(nn.Identity(), 5, 2).double(), doubles(1, 5)
    once, often = (learner.adapt(Set(x.expand(n, 5), torch.zeros(n, dtype=torch.int64))) for n in (1, 9))
    torch.testing.assert_close(once.std[0], 3 * often.std[0])
    torch.testing.assert_close(once.mean[0], often.mean[0])


def test_spread_makes_an_answer_less_sure():
    """Of two classes with independent logits the average moves towards one half, never past it."""
    learner = classifier(ways=2, samples=50_000)
    mean = torch.tensor([[2.0, 0.0], [0.5, 0.0], [0.0, 3.0]]).double()
    sure = mean.softmax(-1).amax(-1)
    for std in (0.5, 2.0):
        averaged = learner.distribution(mean, torch.full_like(mean, std), learner.draws).probs.amax(-1)
        assert ((averaged < sure) & (averaged > 0.5)).all()
        sure = averaged


def test_the_belief_of_a_class_depends_on_its_own_examples_alone():
    episode, learner = classification(tasks=1), classifier()
    x, y = episode.support.x[0], episode.support.y[0]
    state, other = learner.adapt(Set(x, y)), learner.adapt(Set(torch.where((y == 2)[:, None], x + 1, x), y))
    for a, b in zip(state[:2], other[:2], strict=True):
        torch.testing.assert_close(a[:2], b[:2])
        assert (a[2] - b[2]).abs().max() > 1e-3


def test_the_order_of_the_support_and_the_names_of_the_classes_do_not_matter():
    episode, learner = classification(tasks=1), classifier()
    support, x = Set(*(t[0] for t in episode.support)), episode.query.x[0]
    order, names = torch.tensor([3, 0, 5, 1, 4, 2]), torch.tensor([2, 0, 1])
    changed = Set(support.x[order], names[support.y[order]])
    draws = doubles(20, 1, 3)
    renamed = torch.empty_like(draws)
    renamed[..., names] = draws
    ours = learner.distribution(*learner.logits(learner.adapt(support), x), draws).logits
    theirs = learner.distribution(*learner.logits(learner.adapt(changed), x), renamed).logits
    torch.testing.assert_close(theirs[..., names], ours)


def test_classes_without_support_are_never_predicted_and_an_evaluation_repeats_itself():
    episode, learner = classification(), classifier(ways=5)
    answers = learner.eval()(episode)
    assert (answers[..., 3:] == -torch.inf).all() and answers[..., :3].isfinite().all()
    torch.testing.assert_close(answers.exp().sum(-1), torch.ones(answers.shape[:-1]).double())
    assert torch.equal(answers, learner(episode))
    for part, answer in zip(episode.split(1), answers, strict=True):
        torch.testing.assert_close(learner(part)[0], answer)


@pytest.mark.parametrize("certain", [False, True])
def test_the_gradient_of_the_classifier_is_that_of_finite_differences(certain):
    episode, learner = classification(), classifier(certain=certain)
    loss = learner.meta_loss

    def same_draws(episode):
        torch.manual_seed(3)
        return loss(episode)

    learner.meta_loss = same_draws
    finite, exact = slopes(learner, episode, step=1e-6)
    torch.testing.assert_close(finite, exact, rtol=1e-5, atol=1e-8)


# Stein variational gradient descent


def test_the_direction_is_the_double_sum_of_its_definition():
    particles, scores, h = doubles(4, 3), doubles(4, 3, seed=1), 1.7
    expected = torch.zeros(4, 3).double()
    for m in range(4):
        for j in range(4):
            point = particles[j].clone().requires_grad_()
            kernel = torch.exp(-(point - particles[m]).square().sum() / h)
            expected[m] += (kernel.detach() * scores[j] + torch.autograd.grad(kernel, point)[0]) / 4
    torch.testing.assert_close(svgd_direction(particles, scores, h), expected)


def test_one_particle_climbs_the_gradient():
    scores = doubles(1, 5)
    for bandwidth in (None, 0.3):
        torch.testing.assert_close(svgd_direction(doubles(1, 5, seed=1), scores, bandwidth), scores)


def test_the_default_bandwidth_is_the_median_of_pairs():
    particles, scores = torch.tensor([[0.0], [1.0], [3.0]]).double(), doubles(3, 1)  # squared distances 1, 4, 9
    torch.testing.assert_close(svgd_direction(particles, scores), svgd_direction(particles, scores, 4.0 / math.log(4)))


def test_particles_may_change_places_and_move_with_their_space():
    particles, scores, order = doubles(5, 3), doubles(5, 3, seed=1), torch.tensor([2, 0, 4, 1, 3])
    direction = svgd_direction(particles, scores)
    torch.testing.assert_close(svgd_direction(particles[order], scores[order]), direction[order])
    torch.testing.assert_close(svgd_direction(particles + 7, scores), direction)
    turn = torch.linalg.qr(doubles(3, 3, seed=2)).Q
    torch.testing.assert_close(svgd_direction(particles @ turn, scores @ turn), direction @ turn)


def test_without_a_target_two_particles_fly_apart_and_many_keep_their_mean():
    direction = svgd_direction(torch.tensor([[0.0], [1.0]]).double(), torch.zeros(2, 1).double(), 1.0)
    assert direction[0] < 0 < direction[1]
    many = doubles(9, 4)
    torch.testing.assert_close(svgd_direction(many, torch.zeros_like(many)).mean(0), torch.zeros(4).double())


def test_the_fixed_point_on_a_gaussian_has_its_mean_and_nearly_its_covariance():
    mean, covariance = torch.tensor([1.0, -2.0]).double(), torch.tensor([[1.0, 0.6], [0.6, 0.8]]).double()
    particles, precision = doubles(60, 2), torch.linalg.inv(covariance)
    for _ in range(1500):
        particles = particles + 0.3 * svgd_direction(particles, (mean - particles) @ precision)
    torch.testing.assert_close(particles.mean(0), mean, rtol=0, atol=1e-3)
    spread = torch.cov(particles.T, correction=0)
    assert 0.85 < spread[0, 0] / covariance[0, 0] < 1.1 and 0.85 < spread[1, 1] / covariance[1, 1] < 1.1
    assert abs(spread[0, 1] / (spread[0, 0] * spread[1, 1]).sqrt() - 0.6 / 0.8**0.5) < 0.05


def test_the_direction_has_the_derivative_of_finite_differences():
    inputs = doubles(4, 3).requires_grad_(), doubles(4, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(svgd_direction, inputs)
    assert torch.autograd.gradcheck(lambda p, s: svgd_direction(p, s, 0.8), inputs)


# Bayesian MAML


def networks(count, activation=nn.Tanh):
    torch.manual_seed(0)
    return [mlp([2, 6, 1], activation).double() for _ in range(count)]


@pytest.mark.parametrize("steps", [1, 3])
def test_one_particle_is_maml(steps):
    """Outputs, loss and meta-gradient, second derivatives included."""
    (network,), episode = networks(1), regression()

    def loss(prediction, y):
        return -Normal(prediction, NOISE).log_prob(y).mean()

    maml = MAML(network, inner_lr=0.05, inner_steps=steps, loss=loss)
    bayesian = BayesianMAML([network], inner_lr=0.05, inner_steps=steps, noise=NOISE)
    torch.testing.assert_close(bayesian(episode), maml(episode))
    losses = maml.meta_loss(episode), bayesian.meta_loss(episode)
    torch.testing.assert_close(*losses)
    ours = torch.autograd.grad(losses[1], list(bayesian.starts))
    theirs = torch.autograd.grad(losses[0], list(network.parameters()))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a[0], b)


def test_a_step_is_that_of_svgd_on_the_log_posterior():
    particles, episode = networks(3), regression(tasks=1)
    learner = BayesianMAML(particles, inner_lr=0.02, noise=NOISE)
    support = Set(*(t[0] for t in episode.support))
    flat, scores = [], []
    for network in particles:
        log_p = Normal(network(support.x), NOISE).log_prob(support.y).sum()
        scores.append(torch.cat([g.flatten() for g in torch.autograd.grad(log_p, list(network.parameters()))]))
        flat.append(torch.cat([w.detach().flatten() for w in network.parameters()]))
    flat, scores = torch.stack(flat), torch.stack(scores)
    expected = flat + 0.02 / len(support.y) * svgd_direction(flat, scores)
    adapted = torch.cat([w.flatten(1) for w in learner.adapt(support).values()], 1)
    torch.testing.assert_close(adapted, expected)


def test_particles_are_exchangeable_and_far_ones_do_not_feel_each_other():
    particles, episode = networks(3), regression()
    learner = BayesianMAML(particles, inner_lr=0.02, noise=NOISE, inner_steps=2)
    swapped = BayesianMAML([particles[k] for k in (2, 0, 1)], inner_lr=0.02, noise=NOISE, inner_steps=2)
    torch.testing.assert_close(learner.meta_loss(episode), swapped.meta_loss(episode))
    alone = BayesianMAML(particles, inner_lr=0.06, noise=NOISE, bandwidth=1e-3)
    each = [BayesianMAML([network], inner_lr=0.02, noise=NOISE)(episode) for network in particles]
    torch.testing.assert_close(alone(episode), torch.stack(each).mean(0))  # a third of the rate for each of three


def test_the_prediction_is_a_mixture_of_the_particles():
    learner, episode = BayesianMAML(networks(3), inner_lr=0.02, noise=NOISE), regression(tasks=1)
    support, query = (Set(*(t[0] for t in part)) for part in episode)
    outputs = learner.outputs(learner.adapt(support), query.x)  # (3, queries, 1)
    predicted = learner.distribution(outputs)
    density = Normal(outputs, NOISE).log_prob(query.y).exp().mean(0)
    torch.testing.assert_close(predicted.log_prob(query.y).exp(), density)
    torch.testing.assert_close(predicted.mean, outputs.mean(0))
    torch.testing.assert_close(predicted.variance, outputs.var(0, correction=0) + NOISE**2)


def test_the_meta_gradient_of_bayesian_maml_is_that_of_finite_differences():
    learner, episode = BayesianMAML(networks(3), inner_lr=0.02, noise=NOISE, inner_steps=2), regression()
    finite, exact = slopes(learner, episode, step=1e-6)
    torch.testing.assert_close(finite, exact, rtol=1e-5, atol=1e-8)


def test_a_batch_of_tasks_is_a_loop_over_tasks():
    learner, episode = BayesianMAML(networks(3), inner_lr=0.02, noise=NOISE), regression()
    losses = torch.stack([learner.meta_loss(part) for part in episode.split(1)])
    torch.testing.assert_close(learner.meta_loss(episode), losses.mean())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VersaRegression(AddedEvidence(2), 0.0), "noise must be positive and finite, got 0.0"),
        (lambda: PooledBelief(0), "features must be a positive integer, got 0"),
        (lambda: AddedEvidence(-1), "features must be a positive integer, got -1"),
        (lambda: VersaClassifier(nn.Identity(), 6, 1), "at least 2 ways, got 1"),
        (lambda: VersaClassifier(nn.Identity(), 6, 3, samples=0), "samples must be a positive integer, got 0"),
        (lambda: BayesianMAML([]), "at least one network is needed"),
        (lambda: BayesianMAML(networks(2), inner_lr=-0.1), "cannot be negative"),
        (lambda: BayesianMAML(networks(2), noise=-1.0), "noise must be positive and finite, got -1.0"),
        (lambda: BayesianMAML(networks(2), bandwidth=0.0), "bandwidth must be positive and finite, got 0.0"),
        (lambda: BayesianMAML(networks(2)).double().meta_loss(classification()), "targets hold classes"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_learner_moves_to_a_device_and_trains_there(device):
    learner = BayesianMAML(networks(2), inner_lr=0.02, noise=NOISE).to(device)
    learner.meta_loss(Episode(*(Set(*(t.to(device) for t in part)) for part in regression()))).backward()
    assert all(p.grad is not None for p in learner.parameters())
    for head, episode in ((versa("pooled"), regression(features=2)), (classifier(), classification())):
        head.to(device).meta_loss(episode.to(device)).backward()
