"""Neural processes against their textbook forms, exact integrals, symmetries and a trained example."""

import math

import pytest
import torch
import torch.nn.functional as F
from examples import classification, regression
from torch.autograd import gradcheck
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from metabook import Learner, Set, evaluate, meta_train
from metabook.generative import ConditionalNeuralProcess
from metabook.generative.neural_processes import (
    Belief,
    ConvCNP,
    NeuralProcess,
    draw,
    elbo,
    negative_log_likelihood,
    npml,
    probability_below,
)
from metabook.learner import per_task_score
from metabook.tasks import Sinusoids

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def process(device="cpu", **options) -> ConditionalNeuralProcess:
    return ConditionalNeuralProcess(**{"inputs": 2, "outputs": 3, "width": 8} | options).double().to(device)


def same(one, many, index):
    """`one` is the part `index` of `many`, in mean and standard deviation."""
    torch.testing.assert_close((one.mean, one.stddev), (many.mean[index], many.stddev[index]), **EXACT)


def textbook(learner: ConditionalNeuralProcess, support: Set, x: torch.Tensor) -> Independent:
    """One task by equations 1 to 3 as they stand: encode every pair, average, put r beside every target."""
    r = torch.stack([learner.encoder(torch.cat(pair)) for pair in zip(*support, strict=True)]).mean(0)
    mean, raw = torch.stack([learner.decoder(torch.cat([target, r])) for target in x]).chunk(2, dim=-1)
    return Independent(Normal(mean, learner.min_std + (1 - learner.min_std) * F.softplus(raw)), 1)


@pytest.mark.parametrize("layers", [(4, 3), (1, 1), (2, 5)])
def test_loss_prediction_and_gradient_equal_the_textbook(layers, device):
    """Also the decision of what is scored: support and query together, as in the paper."""
    learner = process(device, encoder_layers=layers[0], decoder_layers=layers[1], min_std=0.2)
    episode = regression(outputs=3, device=device)
    loss, prediction = learner.loss_and_prediction(episode)
    losses, means = [], []
    for sx, sy, qx, qy in zip(*episode.support, *episode.query, strict=True):
        targets = textbook(learner, Set(sx, sy), torch.cat([sx, qx]))
        losses.append(-targets.log_prob(torch.cat([sy, qy])).mean())
        means.append(targets.mean[len(sx) :])
    expected = torch.stack(losses).mean()
    torch.testing.assert_close(loss, expected, **EXACT)
    torch.testing.assert_close(prediction, torch.stack(means), **EXACT)
    gradients = [torch.autograd.grad(value, list(learner.parameters())) for value in (loss, expected)]
    torch.testing.assert_close(*gradients, **EXACT)


def test_all_tasks_at_once_equal_one_task_at_a_time(device):
    learner, (support, query) = process(device), regression(outputs=3, device=device)
    states = learner.adapt(support)
    together = learner.distribution(states, query.x)
    assert states.shape == (3, 8)
    for task in range(3):
        state = learner.adapt(Set(support.x[task], support.y[task]))
        torch.testing.assert_close(state, states[task], **EXACT)
        alone = learner.distribution(state, query.x[task])
        same(alone, together, task)
        torch.testing.assert_close(learner.predict(state, query.x[task]), together.mean[task], **EXACT)


def test_one_call_of_the_networks_equals_vmap_over_tasks(device):
    learner, episode = process(device), regression(outputs=3, device=device)
    torch.testing.assert_close(learner(episode), Learner.forward(learner, episode), **EXACT)
    torch.testing.assert_close(learner(episode), learner.loss_and_prediction(episode)[1], **EXACT)


def test_order_of_the_context_does_not_matter(device):
    learner, (support, _) = process(device), regression(shots=6, outputs=3, device=device)
    order = torch.randperm(6, device=device)
    shuffled = Set(support.x[:, order], support.y[:, order])
    torch.testing.assert_close(learner.adapt(shuffled), learner.adapt(support), **EXACT)


def test_each_context_point_matters_and_repeating_all_of_them_does_not(device):
    """The mean forgets how many there were: a CNP of the same points twice is exactly as sure."""
    learner, (support, _) = process(device), regression(outputs=3, device=device)
    state = learner.adapt(support)
    torch.testing.assert_close(learner.adapt(Set(*(torch.cat([t, t], dim=1) for t in support))), state, **EXACT)
    for point in range(support.x.shape[1]):
        y = support.y.clone()
        y[:, point] += 1
        assert (learner.adapt(Set(support.x, y)) - state).abs().amax(-1).min() > 1e-4


def test_a_target_does_not_depend_on_the_others(device):
    learner, (support, query) = process(device), regression(outputs=3, device=device)
    state = learner.adapt(support)
    everything, alone = learner.distribution(state, query.x), learner.distribution(state, query.x[:, 1:2])
    same(alone, everything, (slice(None), slice(1, 2)))
    assert not learner.transductive


def test_meta_loss_by_finite_differences():
    """`gradcheck` moves the parameters in place, one number at a time, so the loss sees the change."""
    learner, episode = process(width=4), regression(tasks=2, outputs=3)
    assert gradcheck(lambda *_: learner.meta_loss(episode), tuple(learner.parameters()))


def test_loss_refuses_to_broadcast():
    with pytest.raises(ValueError, match=r"predictions \(5, 1\) and values \(5,\) differ in shape"):
        negative_log_likelihood(Independent(Normal(torch.zeros(5, 1), torch.ones(5, 1)), 1), torch.zeros(5))


def test_standard_deviation_stays_above_its_bound(device):
    """However sure the last layer is, and it can be as large as needed."""
    learner, (support, query) = process(device, min_std=0.3), regression(outputs=3, device=device)
    stds = []
    for bias in (-100.0, 100.0):
        with torch.no_grad():
            learner.decoder[-1].bias.fill_(bias)
        stds.append(learner.distribution(learner.adapt(support), query.x).stddev)
    torch.testing.assert_close(stds[0], torch.full_like(stds[0], 0.3), **EXACT)
    assert stds[1].min() > 50


def test_trained_on_waves_it_beats_the_prior_and_knows_how_sure_it_is(device):
    """Against the normal distribution with the exact mean and variance of y at x over all waves, which sees no context.

    Seeds gave a negative log-likelihood of 0.70 to 0.86 after 600 steps, the prior has 1.99; 60 to 70 % of the
    targets lay within one standard deviation and 90 to 96 % within two.
    """
    tasks = Sinusoids(shots=10, queries=10, device=device)
    learner = ConditionalNeuralProcess(width=64).to(device)
    optimizer = torch.optim.Adam(learner.parameters(), lr=3e-3)
    history = meta_train(learner, tasks, steps=600, meta_batch=32, optimizer=optimizer)
    support, (x, y) = episode = tasks.sample(500, tasks.generator(1))

    low, high = tasks.amplitude
    mean = -(low + high) / math.pi * x.cos()  # E[amplitude] E[sin(x - phase)], the phase uniform in [0, pi]
    square = (low**2 + low * high + high**2) / 6  # E[amplitude^2] E[sin^2]
    prior = Independent(Normal(mean, (square - mean.square()).sqrt()), 1)
    with torch.no_grad():
        prediction = learner.distribution(learner.adapt(support), x)
    assert -prediction.log_prob(y).mean() < -prior.log_prob(y).mean() - 0.8
    assert sum(history.loss[-20:]) < sum(history.loss[:20]) - 20

    z = ((y - prediction.mean) / prediction.stddev).abs()
    assert 0.5 < (z < 1).double().mean() < 0.8
    assert 0.85 < (z < 2).double().mean() < 0.99

    scores = evaluate(learner, tasks, n=100, seed=1)
    assert scores.metric == "mse"
    assert scores.mean < 0.5 * per_task_score(prior.mean, y).mean().item()
    torch.testing.assert_close(per_task_score(learner(episode), y), (prediction.mean - y).square().mean((1, 2)))


def test_shapes_that_the_networks_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"support has inputs \(3, 4, 2\) and values \(3, 4, 1\), expected .* 3\)"):
        process().meta_loss(regression())
    with pytest.raises(ValueError, match=r"support has inputs \(3, 4, 5\)"):
        process().meta_loss(regression(features=5, outputs=3))
    episode = regression(outputs=3)
    with pytest.raises(ValueError, match=r"query has inputs \(3, 5, 2\) and values \(3, 5, 1\)"):
        process().meta_loss(episode._replace(query=episode.query._replace(y=episode.query.y[..., :1])))


def test_classes_are_refused():
    with pytest.raises(ValueError, match=r"classes .*int64.*regression"):
        process(inputs=5).meta_loss(classification())


@pytest.mark.parametrize("name", ["inputs", "outputs", "width", "encoder_layers", "decoder_layers"])
def test_sizes_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be a positive integer, got 0"):
        process(**{name: 0})


@pytest.mark.parametrize("min_std", [0.0, -0.1, 1.0])
def test_bounds_of_the_standard_deviation_that_make_no_sense_are_refused(min_std):
    with pytest.raises(ValueError, match=f"min_std must lie between 0 and 1, got {min_std}"):
        process(min_std=min_std)


# --- without observations


def test_without_observations_a_cnp_answers_alike_for_every_task_and_knows_nothing_of_y(device):
    learner, episode = process(device), regression(outputs=3, device=device)
    empty = Set(episode.support.x[:, :0], episode.support.y[:, :0])
    state = learner.adapt(empty)
    assert not state.any() and state.shape == (3, 8)
    x = episode.query.x[:1].expand(3, -1, -1)
    prior = learner.distribution(state, x)
    torch.testing.assert_close(prior.mean[1:], prior.mean[:1].expand(2, -1, -1), **EXACT)


# --- the latent process


def latent(device="cpu", **options):
    sizes = {"inputs": 2, "outputs": 3, "width": 8, "latent": 4, "samples": 3}
    return NeuralProcess(**sizes | options).double().to(device)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def convolutional(**options):
    sizes = {"inputs": 2, "outputs": 3, "channels": 4, "dilations": (1, 2), "kernel": 3, "spacing": 0.5}
    return ConvCNP(**sizes | options).double()


def linear(objective):
    """A process whose decoder is linear in z with fixed noise, so that the integral over z is a normal density."""
    learner = latent(outputs=1, decoder_layers=1, objective=objective)
    with torch.no_grad():
        learner.decoder[0].weight[1] = 0
        learner.decoder[0].bias[1] = 0
    return learner


def exact_log_density(learner, episode):
    """log p(y | x, S) of all points together, in closed form."""
    x, y = (torch.cat(both, 1) for both in zip(*episode, strict=True))
    state, layer = learner.adapt(episode.support), learner.decoder[0]
    weight_x, weight_z = layer.weight[0, :2], layer.weight[0, 2:]
    mean = x @ weight_x + layer.bias[0] + (state.mean @ weight_z)[:, None]
    shared = (state.std.square() @ weight_z.square())[:, None, None]  # one z, so all targets move together
    std = learner.min_std + (1 - learner.min_std) * F.softplus(layer.bias[1])
    covariance = shared + std.square() * torch.eye(x.shape[1])
    return MultivariateNormal(mean, covariance).log_prob(y.squeeze(-1))


def test_both_bounds_lie_below_the_exact_density():
    episode = regression()
    learner = linear("npml")
    exact = exact_log_density(learner, episode).detach()
    with torch.no_grad():
        one, hundred = (
            torch.stack([learner.bound(episode, samples, generator(seed)) for seed in range(400)]).mean(0)
            for samples in (1, 100)
        )
        learner.objective = "elbo"
        evidence = torch.stack([learner.bound(episode, 20, generator(seed)) for seed in range(400)]).mean(0)
    assert (one < exact - 0.01).all() and (evidence < exact).all()
    assert (hundred > one).all()
    torch.testing.assert_close(hundred, exact, rtol=0, atol=0.02)


def test_the_elbo_is_tight_at_the_exact_posterior_of_z():
    """y = z + noise: conjugate, so posterior and evidence have formulas."""
    y, noise = torch.tensor([[0.7], [-1.2]], dtype=torch.float64), 0.5
    prior = Independent(Normal(torch.zeros_like(y), torch.ones_like(y)), 1)
    std = torch.full_like(y, (1 / (1 + 1 / noise**2)) ** 0.5)
    posterior = Independent(Normal(std.square() * y / noise**2, std), 1)
    evidence = Normal(0.0, (1 + noise**2) ** 0.5).log_prob(y).squeeze(-1)

    def bound(belief):
        z = draw(belief, 200_000, generator())
        return elbo(Normal(z, noise).log_prob(y).sum(-1), belief, prior)

    torch.testing.assert_close(bound(posterior), evidence, rtol=0, atol=0.01)
    assert (bound(prior) < evidence - 0.1).all()


def test_the_divergence_of_two_beliefs_is_the_closed_form():
    mean, std = torch.randn(2, 3, 4, dtype=torch.float64), 0.2 + torch.rand(2, 3, 4, dtype=torch.float64)
    q, p = (Belief(m, s).z for m, s in zip(mean, std, strict=True))
    ratio, shift = std[0] / std[1], (mean[0] - mean[1]) / std[1]
    by_hand = (0.5 * (ratio.square() + shift.square() - 1) - ratio.log()).sum(-1)
    torch.testing.assert_close(kl_divergence(q, p), by_hand, **EXACT)
    assert (kl_divergence(q, q).abs() < 1e-12).all() and (by_hand > 0).all()


def test_npml_is_the_log_of_the_mean():
    values = torch.randn(6, 2, dtype=torch.float64)
    torch.testing.assert_close(npml(values), values.exp().mean(0).log(), **EXACT)


def test_probabilities_below_are_those_of_samples():
    learner, (support, query) = latent(), regression(outputs=3)
    state = learner.adapt(support)
    prediction = learner.distribution(state, query.x, 5, generator())
    torch.manual_seed(0)
    below = (prediction.sample((20_000,)) < query.y).double().mean(0)
    torch.testing.assert_close(probability_below(prediction, query.y), below, rtol=0, atol=0.015)
    one = process().distribution(process().adapt(support), query.x)
    torch.testing.assert_close(probability_below(one, one.mean), torch.full_like(one.mean, 0.5))


@pytest.mark.parametrize("heads", [0, 2])
def test_functions_equal_the_textbook(heads):
    """One target and one z at a time, the decoder's input put together by hand."""
    learner, (support, query) = latent(heads=heads), regression(outputs=3)
    state, z = learner.adapt(support), torch.randn(5, 3, 4, dtype=torch.float64)
    result = learner.functions(state, query.x, z)
    for s, task, target in ((0, 0, 0), (4, 2, 3), (2, 1, 4)):
        pairs = torch.cat([support.x[task], support.y[task]], -1)
        parts = [query.x[task, target], z[s, task]]
        if heads:
            keys, values, asked = learner.keys(support.x[task]), learner.values(pairs), learner.keys(parts[0])
            for h in range(2):
                part = slice(4 * h, 4 * h + 4)
                weights = (keys[:, part] @ asked[part] / 2).softmax(0)
                parts.append(weights @ values[:, part])
        mean, raw = learner.decoder(torch.cat(parts)).chunk(2)
        torch.testing.assert_close(result.mean[s, task, target], mean, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(result.stddev[s, task, target], 0.1 + 0.9 * F.softplus(raw), rtol=1e-9, atol=1e-9)


def test_one_sample_of_z_makes_the_prediction_that_function():
    learner, (support, query) = latent(), regression(outputs=3)
    state = learner.adapt(support)
    alone = learner.distribution(state, query.x, 1, generator())
    function = learner.functions(state, query.x, draw(state.z, 1, generator()))
    torch.testing.assert_close(alone.mean, function.mean[0], **EXACT)
    torch.testing.assert_close(alone.log_prob(query.y), function.log_prob(query.y)[0], **EXACT)
    mixture = learner.distribution(state, query.x, 7, generator())
    each = learner.functions(state, query.x, draw(state.z, 7, generator()))
    torch.testing.assert_close(mixture.log_prob(query.y), npml(each.log_prob(query.y)), **EXACT)


# --- all of them


@pytest.mark.parametrize("build", [latent, lambda: latent(heads=2), convolutional], ids=["np", "anp", "convcnp"])
def test_order_does_not_matter_for_any_of_them(build):
    learner, (support, query) = build(), regression(shots=6, outputs=3)
    order = torch.randperm(6)
    shuffled = Set(support.x[:, order], support.y[:, order])
    one, two = (learner.predict(learner.adapt(s), query.x) for s in (support, shuffled))
    torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("build", [latent, lambda: latent(heads=2), convolutional], ids=["np", "anp", "convcnp"])
def test_one_task_alone_is_predicted_as_in_the_batch(build):
    """A single task has its own, smaller lattice: the convolutions do not see where it ends."""
    learner, episode = build(), regression(outputs=3)
    together = learner(episode)
    for task in range(3):
        support = Set(episode.support.x[task], episode.support.y[task])
        alone = learner.predict(learner.adapt(support), episode.query.x[task])
        torch.testing.assert_close(alone, together[task], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "build",
    [
        lambda: latent(width=4, latent=2),
        lambda: latent(width=4, latent=2, heads=2),
        lambda: latent(width=4, latent=2, objective="elbo"),
        lambda: convolutional(channels=2, dilations=(1,)),
    ],
    ids=["np", "anp", "elbo", "convcnp"],
)
def test_losses_by_finite_differences(build):
    learner, episode = build(), regression(tasks=2, outputs=3)

    def loss(*_):
        torch.manual_seed(1)  # the same z at every call
        return learner.meta_loss(episode)

    assert gradcheck(loss, tuple(learner.parameters()))


@pytest.mark.parametrize("features", [1, 2])
def test_the_convolutional_process_shifts_with_its_inputs(features):
    learner, (support, query) = convolutional(inputs=features), regression(features=features, outputs=3)
    shift = 0.5 * torch.arange(7, 7 + features)  # a multiple of the spacing
    before = learner.distribution(support, query.x)
    after = learner.distribution(Set(support.x + shift, support.y), query.x + shift)
    torch.testing.assert_close((after.mean, after.stddev), (before.mean, before.stddev), rtol=1e-9, atol=1e-9)
    other = ConditionalNeuralProcess(inputs=features, outputs=3).double()
    moved = other.predict(other.adapt(Set(support.x + shift, support.y)), query.x + shift)
    assert (moved - other.predict(other.adapt(support), query.x)).abs().max() > 0.01


def test_a_convolutional_prediction_does_not_depend_on_the_other_targets():
    learner, (support, query) = convolutional(), regression(outputs=3)
    everything, alone = learner.distribution(support, query.x), learner.distribution(support, query.x[:, 1:2])
    torch.testing.assert_close(alone.mean, everything.mean[:, 1:2], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: latent(objective="mle"), "objective must be .* got 'mle'"),
        (lambda: latent(heads=3), "heads must divide the width 8, or be 0, got 3"),
        (lambda: latent(latent=0), "latent must be a positive integer, got 0"),
        (lambda: convolutional(kernel=4), "the kernel odd .* got 2, 4"),
        (lambda: convolutional(dilations=()), "dilation must be a positive integer, got 0"),
        (lambda: convolutional(inputs=3), "inputs must be 1 or 2"),
        (lambda: convolutional(min_std=2), "min_std must lie between 0 and 1, got 2"),
    ],
)
def test_settings_that_make_no_sense_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
