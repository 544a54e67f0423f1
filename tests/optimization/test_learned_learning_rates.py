"""Learned rates against MAML, which each of them contains, and against derivatives by finite differences."""

import pytest
import torch
from examples import classification, regression
from torch import nn

from metabook import MAML, meta_train, task_loss
from metabook.networks import conv4, mlp
from metabook.optimization.learned_learning_rates import (
    HypergradientSGD,
    MAMLPlusPlus,
    MetaSGD,
    ScheduledMAML,
    annealing,
    multi_step_weights,
    step_with_rates,
)
from metabook.tasks import Quadratics, Sinusoids

LEARNERS = [MetaSGD, MAMLPlusPlus, ScheduledMAML]


def network(outputs=1, inputs=2):
    torch.manual_seed(3)
    return mlp([inputs, 6, outputs], nn.Tanh).double()


def start_gradient(learner, episode):
    learner.zero_grad()
    learner.meta_loss(episode).backward()
    return [p.grad.clone() for p in learner.network.parameters()]


def shaken(learner, scale=0.02):
    """The learner with other parameters: as equal ones, rates would hide mistakes."""
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return learner


@pytest.mark.parametrize("learner_class", LEARNERS)
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("episode", [regression(), classification(ways=3, shape=(2,))])
def test_constant_rates_are_maml(learner_class, steps, first_order, episode):
    outputs = 3 if episode.support.y.ndim == 2 else 1
    settings = {"inner_lr": 0.1, "inner_steps": steps, "first_order": first_order}
    ours, maml = learner_class(network(outputs), **settings), MAML(network(outputs), **settings)
    torch.testing.assert_close(ours(episode), maml(episode), rtol=1e-12, atol=1e-14)
    for got, expected in zip(start_gradient(ours, episode), start_gradient(maml, episode), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("learner_class", LEARNERS)
def test_zero_rates_return_the_start(learner_class):
    learner, episode = learner_class(network(), inner_lr=0.0, inner_steps=2), regression()
    torch.testing.assert_close(learner(episode)[1], learner.network(episode.query.x[1]))


@pytest.mark.parametrize("learner_class", LEARNERS)
def test_gradcheck_of_the_meta_loss(learner_class):
    learner, episode = shaken(learner_class(network(), inner_lr=0.1, inner_steps=2)), regression(tasks=2)
    if learner_class is MAMLPlusPlus:
        learner.step_weights = [0.3, 0.7]
    names, parameters = zip(*learner.named_parameters(), strict=True)

    def meta_loss(*values):
        return torch.func.functional_call(_Loss(learner), dict(zip(names, values, strict=True)), (episode,))

    names = [f"learner.{name}" for name in names]
    assert torch.autograd.gradcheck(meta_loss, parameters, atol=1e-7)


class _Loss(nn.Module):
    def __init__(self, learner):
        super().__init__()
        self.learner = learner

    def forward(self, episode):
        return self.learner.loss_and_prediction(episode)[0]


@pytest.mark.parametrize("learner_class", LEARNERS)
def test_first_order_adapts_alike_and_still_learns_the_rates(learner_class):
    episode = regression()
    second = shaken(learner_class(network(), inner_lr=0.1, inner_steps=2))
    first = learner_class(network(), inner_lr=0.1, inner_steps=2, first_order=True)
    first.load_state_dict(second.state_dict())
    first.first_order = True
    torch.testing.assert_close(first(episode), second(episode))
    a, b = start_gradient(first, episode), start_gradient(second, episode)
    assert any(not torch.allclose(x, y, rtol=1e-2) for x, y in zip(a, b, strict=True))
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in first.parameters() if p.numel() > 1)


@pytest.mark.parametrize("first_order", [False, True])
def test_the_derivative_by_a_rate_is_minus_the_product_of_two_gradients(first_order):
    """One step: d L_Q(phi') / d alpha_i = -(grad L_S at phi)_i (grad L_Q at phi')_i, with or without second order."""
    episode = regression(tasks=1)
    learner = shaken(MetaSGD(network(), inner_lr=0.1, first_order=first_order))
    learner.meta_loss(episode).backward()
    start = list(learner.network.parameters())
    before = torch.autograd.grad(task_loss(learner.network(episode.support.x[0]), episode.support.y[0]), start)
    after = network()
    with torch.no_grad():
        for p, q, rate, g in zip(after.parameters(), start, learner.rates, before, strict=True):
            p.copy_(q - rate * g)
    query = torch.autograd.grad(task_loss(after(episode.query.x[0]), episode.query.y[0]), list(after.parameters()))
    for rate, g, q in zip(learner.rates, before, query, strict=True):
        torch.testing.assert_close(rate.grad, -g * q, rtol=1e-9, atol=1e-13)


def test_the_inverse_curvature_solves_every_axis_aligned_bowl_in_one_step(device):
    """0.5 (w - c)' diag(l) (w - c): the rates 1 / l lead from anywhere to c, whatever c is."""
    curvature = torch.tensor([0.1, 1.0, 20.0], dtype=torch.float64, device=device)
    start, centre = torch.randn(2, 3, dtype=torch.float64, device=device)
    after = step_with_rates(
        lambda weights: 0.5 * (curvature * (weights["w"] - centre).square()).sum(), {"w": start}, {"w": 1 / curvature}
    )
    torch.testing.assert_close(after["w"], centre)


def test_one_rate_for_a_tensor_broadcasts_like_as_many_equal_ones():
    learner, episode = MetaSGD(network(), inner_lr=0.1), regression(tasks=1)
    weights = dict(learner.network.named_parameters())

    def loss(weights):
        return task_loss(learner.predict(weights, episode.support.x[0]), episode.support.y[0])

    one = step_with_rates(loss, weights, {name: torch.tensor(0.1, dtype=torch.float64) for name in weights})
    many = step_with_rates(loss, weights, {name: torch.full_like(w, 0.1) for name, w in weights.items()})
    for name in weights:
        torch.testing.assert_close(one[name], many[name])


# ---------------------------------------------------------------------------------------------------- MAML++


def test_each_layer_and_step_has_its_own_rate():
    """Zero but for one rate: only that layer has moved, and only in that step."""
    episode = regression(tasks=1)
    learner = MAMLPlusPlus(network(), inner_lr=0.0, inner_steps=3)
    with torch.no_grad():
        learner.rates[2, 1] = 0.5  # the second layer's weight, in the second step
    path = learner.trajectory(type(episode.support)(episode.support.x[0], episode.support.y[0]))
    names = list(path[0])
    moved = [
        [name for name in names if not torch.equal(a[name], b[name])] for a, b in zip(path, path[1:], strict=False)
    ]
    assert moved == [[], [names[2]], []]


def test_steps_beyond_the_learned_ones_repeat_the_last_rates():
    episode = regression()
    two = shaken(MAMLPlusPlus(network(), inner_lr=0.1, inner_steps=2))
    four = MAMLPlusPlus(two.network, inner_lr=0.1, inner_steps=4)
    with torch.no_grad():
        four.rates.copy_(two.rates[:, [0, 1, 1, 1]])
    two.inner_steps = 4
    assert torch.equal(two(episode), four(episode))


def test_the_multi_step_loss_is_the_weighted_sum_of_maml_losses():
    episode, weights = regression(), [0.2, 0.3, 0.5]
    learner = MAMLPlusPlus(network(), inner_lr=0.1, inner_steps=3, step_weights=weights)
    losses = [MAML(network(), inner_lr=0.1, inner_steps=k).meta_loss(episode) for k in (1, 2, 3)]
    expected = sum(w * loss for w, loss in zip(weights, losses, strict=True))
    torch.testing.assert_close(learner.meta_loss(episode), expected)


def test_multi_step_weights_go_from_equal_to_the_last_step_alone():
    assert multi_step_weights(4, 0) == pytest.approx([0.25] * 4)
    assert multi_step_weights(4, 0.5) == pytest.approx([0.125, 0.125, 0.125, 0.625])
    assert multi_step_weights(4, 1) == multi_step_weights(4, 7.0) == [0, 0, 0, 1]
    assert multi_step_weights(1, 0.3) == [1]


def test_annealing_prepares_the_next_outer_step():
    learner = MAMLPlusPlus(network(), inner_steps=2)
    anneal, seen = annealing(second_order_from=2, last_step_only_from=4), []
    for step in range(5):
        anneal(step, learner)
        seen.append((learner.first_order, learner.step_weights))
    assert [first for first, _ in seen] == [True, True, False, False, False]
    assert [weights[0] for _, weights in seen] == pytest.approx([0.5, 0.375, 0.25, 0.125, 0])
    annealing(0, 0)(0, learner)
    assert not learner.first_order and learner.step_weights == [0, 1]


def test_an_annealed_run_that_was_stopped_goes_on_as_if_nothing_had_happened(tmp_path):
    def run(steps, checkpoint):
        learner = MAMLPlusPlus(network(inputs=1), inner_lr=0.05, inner_steps=2)
        anneal = annealing(second_order_from=5, last_step_only_from=8)
        anneal(0, learner)
        optimizer = torch.optim.Adam(learner.parameters(), lr=0.01)
        meta_train(learner, _Doubles(), steps=steps, optimizer=optimizer, on_step=anneal, checkpoint=checkpoint)
        return learner

    run(3, tmp_path / "run")
    stopped, whole = run(10, tmp_path / "run"), run(10, None)
    assert all(torch.equal(a, b) for a, b in zip(stopped.parameters(), whole.parameters(), strict=True))


class _Doubles(Sinusoids):
    def sample(self, n, generator):
        return super().sample(n, generator).to(torch.float64)


@pytest.mark.parametrize("weights", [[1.0], [0.0, 0.0], [-0.1, 1.1]])
def test_bad_step_weights_are_refused(weights):
    with pytest.raises(ValueError, match="step_weights needs one number for each of 2 steps"):
        MAMLPlusPlus(network(), inner_steps=2, step_weights=weights)
    learner = MAMLPlusPlus(network(), inner_steps=2)
    learner.step_weights = weights
    with pytest.raises(ValueError, match="step_weights"):
        learner.meta_loss(regression())


# ---------------------------------------------------------------------------------------------------- schedules


def test_the_rate_is_a_function_of_step_loss_and_gradient():
    learner = shaken(ScheduledMAML(network(), inner_lr=0.1), scale=0.5)
    loss = torch.tensor(2.0, dtype=torch.float64)
    gradient = {"a": torch.tensor([3.0, 0.0], dtype=torch.float64), "b": torch.tensor([4.0], dtype=torch.float64)}
    features = torch.tensor([2.0, 2.0, 5.0], dtype=torch.float64)
    features[1:] = features[1:].log()
    expected = 0.1 * learner.schedule(features).exp().squeeze()
    torch.testing.assert_close(learner.rate(2, loss, gradient), expected, rtol=1e-6, atol=0)
    assert learner.rate(0, loss, gradient) != learner.rate(2, loss, gradient)


def test_the_rates_of_a_schedule_are_those_of_its_steps():
    """One step at a time: each moves the weights by minus its rate times the gradient."""
    learner, episode = shaken(ScheduledMAML(network(), inner_lr=0.1, inner_steps=1), scale=0.3), regression(tasks=1)
    support = type(episode.support)(episode.support.x[0], episode.support.y[0])
    weights, rates = learner.descend(support)
    start = dict(learner.network.named_parameters())
    loss = task_loss(learner.network(support.x), support.y)
    gradient = torch.autograd.grad(loss, list(start.values()))
    for (name, w), g in zip(start.items(), gradient, strict=True):
        torch.testing.assert_close(weights[name], w - rates[0] * g)
    learner.inner_steps = 0
    assert learner.descend(support)[1].shape == (0,)


def test_a_perfect_fit_has_a_finite_rate_and_gradient():
    episode = regression()
    silent = type(episode)(*(type(part)(part.x, torch.zeros_like(part.y)) for part in episode))
    zero = network()
    nn.init.zeros_(zero[-1].weight)
    nn.init.zeros_(zero[-1].bias)
    learner = ScheduledMAML(zero, inner_lr=0.1)
    learner.meta_loss(silent).backward()
    assert all(p.grad.isfinite().all() for p in learner.parameters())


# ------------------------------------------------------------------------------------------------ hypergradients


def bowl(w):
    curvature = torch.tensor([0.5, 2.0, 5.0], dtype=torch.float64)
    return 0.5 * (curvature * w.square()).sum() + w.sin().sum()


def test_the_rate_moves_against_the_derivative_of_the_loss_by_the_rate():
    """alpha_1 - alpha_0 = -hyper_lr * d loss(w_0 - alpha g_0) / d alpha at alpha_0, by central differences."""
    start = torch.tensor([1.0, -0.7, 0.4], dtype=torch.float64)
    w, lr, hyper_lr, eps = start.clone().requires_grad_(), 0.05, 1e-3, 1e-6
    optimizer = HypergradientSGD([w], lr=lr, hyper_lr=hyper_lr)
    for _ in range(2):
        optimizer.zero_grad()
        bowl(w).backward()
        optimizer.step()
    probe = start.clone().requires_grad_()
    (g,) = torch.autograd.grad(bowl(probe), probe)
    slope = (bowl(start - (lr + eps) * g) - bowl(start - (lr - eps) * g)) / (2 * eps)
    change = optimizer.param_groups[0]["lr"] - lr
    torch.testing.assert_close(change, -hyper_lr * slope, rtol=1e-7, atol=0)


def test_no_hypergradient_is_plain_gradient_descent():
    ours, theirs = (torch.ones(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimizers = HypergradientSGD([ours], lr=0.1, hyper_lr=0.0), torch.optim.SGD([theirs], lr=0.1)
    for w, optimizer in zip((ours, theirs), optimizers, strict=True):
        for _ in range(20):
            optimizer.zero_grad()
            bowl(w).backward()
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


def test_hypergradient_descent_word_by_word(device):
    w = torch.tensor([1.0, -0.7, 0.4], dtype=torch.float64)
    a, b = (t.to(device).requires_grad_() for t in (w[:1], w[1:]))
    optimizer = HypergradientSGD([a, b], lr=0.01, hyper_lr=1e-3)
    lr, previous = 0.01, torch.zeros_like(w)
    for _ in range(15):
        here = w.clone().requires_grad_()
        (g,) = torch.autograd.grad(bowl(here), here)
        lr = lr + 1e-3 * float(g @ previous)
        w, previous = w - lr * g, g

        def closure():
            optimizer.zero_grad()
            loss = bowl(torch.cat([a, b]).cpu())
            loss.backward()
            return loss

        optimizer.step(closure)
    torch.testing.assert_close(torch.cat([a, b]).detach().cpu(), w)
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(lr) != 0.01


def test_groups_have_rates_of_their_own_and_survive_saving():
    a, b = (torch.full((2,), value, dtype=torch.float64, requires_grad=True) for value in (1.0, 3.0))
    optimizer = HypergradientSGD([{"params": [a]}, {"params": [b]}], lr=0.01, hyper_lr=1e-3)

    def step(optimizer):
        optimizer.zero_grad()
        (bowl(torch.cat([a, b[:1]])) + b[1] ** 2).backward()
        optimizer.step()

    for _ in range(3):
        step(optimizer)
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    assert rates[0] != rates[1]
    restored = HypergradientSGD([{"params": [a]}, {"params": [b]}])
    restored.load_state_dict(optimizer.state_dict())
    before = [a.detach().clone(), b.detach().clone()]
    step(optimizer)
    expected = [a.detach().clone(), b.detach().clone()]
    with torch.no_grad():
        a.copy_(before[0]), b.copy_(before[1])
    step(restored)
    assert torch.equal(a, expected[0]) and torch.equal(b, expected[1])


# ---------------------------------------------------------------------------------------------------- everywhere


@pytest.mark.parametrize("learner_class", LEARNERS)
def test_meta_training_improves_the_learner_and_changes_the_rates(learner_class, device):
    tasks = Quadratics(features=2, curvature=(0.5, 2.0), device=device)
    torch.manual_seed(0)
    learner = learner_class(nn.Linear(2, 1, bias=False).double().to(device), inner_lr=0.1, inner_steps=2)
    optimizer = torch.optim.Adam(learner.parameters(), lr=0.01)
    history = meta_train(learner, tasks, steps=60, meta_batch=20, optimizer=optimizer)
    assert sum(history.loss[-10:]) < 0.8 * sum(history.loss[:10])
    rates = [p for name, p in learner.named_parameters() if not name.startswith("network")]
    assert rates and all(p.device.type == device.type for p in rates)


@pytest.mark.parametrize("learner_class", LEARNERS)
def test_a_convolutional_network_with_norm_layers_can_be_adapted(learner_class):
    episode = classification(ways=3, shape=(1, 16, 16), dtype=torch.float32)
    learner = learner_class(conv4(channels=4, outputs=3, norm="batch"), inner_lr=0.1, inner_steps=2)
    learner.meta_loss(episode).backward()
    assert all(p.grad.isfinite().all() for p in learner.parameters() if p.grad is not None)


@pytest.mark.parametrize("learner_class", LEARNERS)
def test_bad_input_is_refused(learner_class):
    with pytest.raises(ValueError, match="cannot be negative"):
        learner_class(network(), inner_lr=-0.1)
    with pytest.raises(ValueError, match="nothing to adapt"):
        learner_class(nn.Identity())
    with pytest.raises(ValueError, match="LayerNorm"):
        learner_class(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)))


def test_rates_per_step_need_a_step():
    with pytest.raises(ValueError, match="at least one inner step"):
        MAMLPlusPlus(network(), inner_steps=0)


def test_negative_rates_of_an_optimizer_are_refused():
    with pytest.raises(ValueError, match="lr and hyper_lr cannot be negative, got -1 and 0.1"):
        HypergradientSGD([torch.zeros(1, requires_grad=True)], lr=-1, hyper_lr=0.1)


def test_sinusoids_need_no_second_look():
    """The shapes of the experiment: one output, ten points, in float32."""
    tasks = Sinusoids(shots=10, queries=7)
    episode = tasks.sample(4, tasks.generator(0))
    for learner_class in LEARNERS:
        assert learner_class(mlp([1, 5, 1]))(episode).shape == (4, 7, 1)
