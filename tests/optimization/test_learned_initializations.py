"""A start that depends on the task: MAML where the modulation is zero, a conditional network where no step is taken."""

import copy

import pytest
import torch
from examples import classification, regression
from torch import nn
from torch.autograd import gradcheck
from torch.func import functional_call

from metabook import MAML, Set, task_loss
from metabook.networks import conv4, mlp
from metabook.optimization.learned_initializations import ConditionedMAML, modulate


def learner_with_modulation(sizes=(2, 6, 5, 1), **options):
    """One whose modulation is not zero, as after training."""
    learner = ConditionedMAML(mlp(sizes, nn.Tanh), width=4, **options).double()
    nn.init.normal_(learner.modulator[-1].weight)
    nn.init.normal_(learner.modulator[-1].bias, std=0.3)
    return learner


def task(episode, t=0):
    return Set(episode.support.x[t], episode.support.y[t]), Set(episode.query.x[t], episode.query.y[t])


def gradients(learner, episode):
    learner.zero_grad(set_to_none=True)
    learner.meta_loss(episode).backward()
    return [None if p.grad is None else p.grad.clone() for p in learner.parameters()]


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_zero_modulation_is_maml(steps, first_order, device):
    episode = regression(device=device)
    network = mlp([2, 6, 5, 1], nn.Tanh).double().to(device)
    maml = MAML(network, 0.1, steps, first_order)
    learner = ConditionedMAML(network, 4, 0.1, steps, first_order).double().to(device)
    torch.testing.assert_close(learner(episode), maml(episode), rtol=1e-12, atol=1e-14)
    expected = gradients(maml, episode)
    of_network = gradients(learner, episode)[: len(expected)]
    torch.testing.assert_close(of_network, expected, rtol=1e-12, atol=1e-14)


def test_at_zero_the_modulation_begins_to_learn_and_then_the_encoder():
    learner, episode = ConditionedMAML(mlp([2, 6, 1], nn.Tanh), width=4).double(), regression()
    gradients(learner, episode)
    assert learner.modulator[-1].weight.grad.abs().max() > 0
    assert all((p.grad == 0).all() for p in learner.encoder.parameters())
    torch.optim.SGD(learner.parameters(), lr=0.1).step()
    gradients(learner, episode)
    assert all((p.grad != 0).any() for p in learner.encoder.parameters())


def test_the_start_does_not_depend_on_the_order_of_the_support():
    learner = learner_with_modulation()
    support, query = task(regression(shots=7))
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    shuffled = Set(support.x[order], support.y[order])
    for a, b in ((learner.start(support), learner.start(shuffled)), (learner.adapt(support), learner.adapt(shuffled))):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    state = learner.adapt(support)
    moved = learner.predict(state, query.x.flip(0))
    torch.testing.assert_close(moved, learner.predict(state, query.x).flip(0), rtol=1e-12, atol=1e-14)


def test_the_start_depends_on_which_value_belongs_to_which_input():
    learner = learner_with_modulation()
    support, _ = task(regression(shots=7))
    start, mixed = learner.start(support), learner.start(Set(support.x, support.y.flip(0)))
    assert (start["0.weight"] - mixed["0.weight"]).abs().max() > 1e-3
    assert torch.equal(start["4.weight"], learner.network[4].weight), "the output layer is not modulated"


def test_a_support_set_given_twice_is_the_same_support_set():
    learner = learner_with_modulation()
    support, _ = task(regression())
    twice = Set(*(torch.cat([part, part]) for part in support))
    torch.testing.assert_close(learner.adapt(twice), learner.adapt(support), rtol=1e-12, atol=1e-14)


def test_without_steps_it_is_a_network_with_scaled_and_shifted_units():
    """FiLM as published: the modulation acts on activations, and nothing is known of weights."""
    learner, (support, query) = learner_with_modulation(inner_steps=0), task(regression())
    embedding = torch.stack([learner.encoder(torch.cat(pair)) for pair in zip(*support, strict=True)]).mean(0)
    gamma, delta = learner.modulator(embedding).chunk(2)
    units, x = 0, query.x
    for layer in learner.network[:-1]:
        x = layer(x)
        if isinstance(layer, nn.Linear):
            here = slice(units, units + layer.out_features)
            x = (1 + gamma[here]) * x + delta[here]
            units = here.stop
    assert units == len(gamma) == 11
    torch.testing.assert_close(learner.predict(learner.adapt(support), query.x), learner.network[-1](x))


def test_equals_the_naive_double_loop():
    """One task after the other with torch.autograd: start, descend, query loss; no vmap and no torch.func."""
    learner, episode = learner_with_modulation(inner_lr=0.1, inner_steps=3), regression()
    losses = []
    for t in range(episode.tasks):
        support, query = task(episode, t)
        weights = learner.start(support)
        for _ in range(3):
            loss = task_loss(functional_call(learner.network, weights, (support.x,)), support.y)
            gradient = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            weights = {name: w - 0.1 * g for (name, w), g in zip(weights.items(), gradient, strict=True)}
        losses.append(task_loss(functional_call(learner.network, weights, (query.x,)), query.y))
    expected = torch.autograd.grad(torch.stack(losses).mean(), list(learner.parameters()))
    torch.testing.assert_close(gradients(learner, episode), list(expected), rtol=1e-9, atol=1e-12)


def test_a_constant_embedding_is_maml_from_the_modulated_start():
    """The path from the support set to the start runs through the embedding alone."""
    learner, episode = learner_with_modulation(inner_lr=0.1, inner_steps=2), regression()
    nn.init.zeros_(learner.encoder[-1].weight)
    network = copy.deepcopy(learner.network)
    network.load_state_dict(learner.start(task(episode)[0]))
    torch.testing.assert_close(learner(episode), MAML(network, 0.1, 2)(episode), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("steps", [0, 2])
def test_meta_gradient_by_finite_differences(steps):
    learner, episode = learner_with_modulation((2, 3, 1), inner_lr=0.2, inner_steps=steps), regression(tasks=2)
    learner.encoder = mlp([3, 4, 4], nn.Tanh).double()  # smooth, so that differences converge
    learner.modulator = mlp([4, 6], nn.Tanh).double()
    assert gradcheck(lambda *_: learner.meta_loss(episode), tuple(learner.parameters()))


def test_modulate_scales_and_shifts_units_and_leaves_the_given_weights():
    layer = nn.Linear(3, 2).double()
    weights, x = dict(layer.named_parameters(prefix="0")), torch.randn(4, 3, dtype=torch.float64)
    gamma, delta = torch.tensor([0.5, -1.0]).double(), torch.tensor([2.0, 3.0]).double()
    changed = modulate(weights, {"0": (gamma, delta)})
    got = x @ changed["0.weight"].T + changed["0.bias"]
    torch.testing.assert_close(got, layer(x) * torch.tensor([1.5, 0.0]).double() + delta)
    assert weights["0.weight"] is layer.weight


@pytest.mark.parametrize("network", [nn.Linear(1, 1), nn.Sequential(nn.Linear(2, 1), nn.ReLU()), conv4(channels=2)])
def test_networks_without_hidden_linear_layers_are_refused(network):
    with pytest.raises(ValueError, match="linear layers and activations with a hidden layer"):
        ConditionedMAML(network)


def test_bad_arguments_and_episodes_are_refused():
    with pytest.raises(ValueError, match="width must be a positive integer, got 0"):
        ConditionedMAML(mlp([2, 3, 1]), width=0)
    with pytest.raises(ValueError, match="cannot be negative, got -1"):
        ConditionedMAML(mlp([2, 3, 1]), inner_lr=-1)
    learner = ConditionedMAML(mlp([2, 3, 1])).double()
    with pytest.raises(ValueError, match="the encoder reads pairs of 3 numbers"):
        learner.meta_loss(regression(features=3))
    with pytest.raises(ValueError, match="the encoder reads pairs of 6 numbers"):
        ConditionedMAML(mlp([5, 3, 1])).double().meta_loss(classification())
