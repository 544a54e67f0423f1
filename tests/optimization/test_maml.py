"""MAML against closed forms, against its own limits, and against two libraries that others wrote."""

import copy

import pytest
import torch
from examples import classification, regression
from torch import nn
from torch.func import functional_call

from metabook import MAML, Episode, Set, task_loss
from metabook.networks import mlp
from metabook.tasks import Quadratics


def meta_gradient(learner, episode):
    learner.zero_grad()
    learner.meta_loss(episode).backward()
    return {name: p.grad.clone() for name, p in learner.network.named_parameters()}


def naive_meta_gradient(network, episode, lr, steps, first_order=False):
    """The definition, word by word: one task after the other with torch.autograd, no vmap and no torch.func."""
    names, start = zip(*network.named_parameters(), strict=True)
    losses = []
    for t in range(episode.tasks):
        weights = list(start)
        for _ in range(steps):
            prediction = functional_call(network, dict(zip(names, weights, strict=True)), (episode.support.x[t],))
            loss = task_loss(prediction, episode.support.y[t])
            gradients = torch.autograd.grad(loss, weights, create_graph=not first_order)
            weights = [w - lr * g for w, g in zip(weights, gradients, strict=True)]
        prediction = functional_call(network, dict(zip(names, weights, strict=True)), (episode.query.x[t],))
        losses.append(task_loss(prediction, episode.query.y[t]))
    gradients = torch.autograd.grad(torch.stack(losses).mean(), start)
    return dict(zip(names, gradients, strict=True))


def assert_equal_gradients(got, expected, rtol=1e-8):
    assert got.keys() == expected.keys()
    for name in got:
        torch.testing.assert_close(got[name], expected[name], rtol=rtol, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("first_order", [False, True])
def test_closed_form_on_quadratics(steps, first_order, device):
    """With P = I - alpha H: adapted weights c + P^k (w - c), meta-gradient mean of P^k H P^k (w - c),
    and without second derivatives H P^k (w - c)."""
    family, alpha = Quadratics(features=4, device=device), 0.2
    bowls = family.bowls(6, family.generator(0))
    episode = family.episode(bowls)
    network = nn.Linear(4, 1, bias=False).double().to(device)
    learner = MAML(network, inner_lr=alpha, inner_steps=steps, first_order=first_order)
    w = network.weight.detach()[0]
    shrink = torch.linalg.matrix_power(
        torch.eye(4, dtype=torch.float64, device=device) - alpha * bowls.hessian, steps
    )  # (tasks, 4, 4)
    offset = (w - bowls.centre)[:, :, None]
    expected = bowls.hessian @ shrink @ offset
    expected = expected if first_order else shrink @ expected
    got = meta_gradient(learner, episode)["weight"][0]
    torch.testing.assert_close(got, expected.mean(0).squeeze(-1), rtol=1e-10, atol=1e-12)


def test_hand_derived_one_step():
    """f(x) = w x, one support point (1, 2) and one query (2, 3), w = 1, alpha = 1/4.

    Support loss (w - 2)^2, gradient -2, so w' = 3/2.  Query loss (2 w' - 3)^2 = 0: zero gradient.
    With the query (2, 5): loss (3 - 5)^2, gradient for w' is 2 (3 - 5) 2 = -8, and dw'/dw = 1 - 2/4 = 1/2:
    meta-gradient -4, first order -8.
    """
    network = nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(network.weight)

    def point(x, y):
        return Set(torch.tensor([[[x]]], dtype=torch.float64), torch.tensor([[[y]]], dtype=torch.float64))

    learner = MAML(network, inner_lr=0.25)
    assert learner.adapt(Set(*(t[0] for t in point(1.0, 2.0))))["weight"].item() == 1.5
    assert meta_gradient(learner, Episode(point(1.0, 2.0), point(2.0, 3.0)))["weight"].item() == 0
    episode = Episode(point(1.0, 2.0), point(2.0, 5.0))
    assert meta_gradient(learner, episode)["weight"].item() == -4
    learner.first_order = True
    assert meta_gradient(learner, episode)["weight"].item() == -8


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("episode", [regression(features=2, outputs=1), classification(ways=3)])
def test_equals_the_naive_double_loop(first_order, episode):
    outputs = 3 if episode.support.y.ndim == 2 else 1
    network = mlp([episode.support.x.shape[-1], 8, outputs], nn.Tanh).double()
    learner = MAML(network, inner_lr=0.1, inner_steps=3, first_order=first_order)
    expected = naive_meta_gradient(network, episode, 0.1, 3, first_order)
    assert_equal_gradients(meta_gradient(learner, episode), expected)


def test_zero_steps_and_zero_rate_are_joint_training():
    episode, network = regression(), mlp([2, 8, 1], nn.Tanh).double()
    joint = torch.autograd.grad(task_loss(network(episode.query.x), episode.query.y), network.parameters())
    expected = dict(zip(dict(network.named_parameters()), joint, strict=True))
    assert_equal_gradients(meta_gradient(MAML(network, inner_steps=0), episode), expected)
    assert_equal_gradients(meta_gradient(MAML(network, inner_lr=0.0, inner_steps=3), episode), expected)


def test_first_order_is_the_query_gradient_at_the_adapted_weights():
    episode, network = regression(tasks=1), mlp([2, 8, 1], nn.Tanh).double()
    learner = MAML(network, inner_lr=0.2, inner_steps=4, first_order=True)
    adapted = learner.adapt(Set(episode.support.x[0], episode.support.y[0]))
    adapted = {name: w.detach().requires_grad_() for name, w in adapted.items()}
    loss = task_loss(functional_call(network, adapted, (episode.query.x[0],)), episode.query.y[0])
    expected = dict(zip(adapted, torch.autograd.grad(loss, adapted.values()), strict=True))
    assert_equal_gradients(meta_gradient(learner, episode), expected)


def test_first_and_second_order_adapt_alike_but_differ_in_gradient():
    episode, network = regression(), mlp([2, 8, 1], nn.Tanh).double()
    second = MAML(network, inner_lr=0.2, inner_steps=2)
    first = MAML(network, inner_lr=0.2, inner_steps=2, first_order=True)
    assert torch.equal(first(episode), second(episode))
    a, b = meta_gradient(first, episode), meta_gradient(second, episode)
    assert any(not torch.allclose(a[name], b[name], rtol=1e-2) for name in a)


def test_parity_with_higher():
    higher = pytest.importorskip("higher")
    episode, network = regression(), mlp([2, 8, 1], nn.Tanh).double()
    reference = copy.deepcopy(network)
    losses = []
    for t in range(episode.tasks):
        optimizer = torch.optim.SGD(reference.parameters(), lr=0.1)
        with higher.innerloop_ctx(reference, optimizer, copy_initial_weights=False) as (fast, inner):
            for _ in range(3):
                inner.step(task_loss(fast(episode.support.x[t]), episode.support.y[t]))
            losses.append(task_loss(fast(episode.query.x[t]), episode.query.y[t]))
    gradients = torch.autograd.grad(torch.stack(losses).mean(), reference.parameters())
    expected = dict(zip(dict(reference.named_parameters()), gradients, strict=True))
    assert_equal_gradients(meta_gradient(MAML(network, inner_lr=0.1, inner_steps=3), episode), expected)


def test_parity_with_torchopt():
    torchopt = pytest.importorskip("torchopt")
    episode, network = regression(), mlp([2, 8, 1], nn.Tanh).double()
    reference = copy.deepcopy(network)
    optimizer = torchopt.MetaSGD(reference, lr=0.1)
    start = torchopt.extract_state_dict(reference, by="reference"), torchopt.extract_state_dict(optimizer)
    meta_parameters = tuple(reference.parameters())
    losses = []
    for t in range(episode.tasks):
        torchopt.recover_state_dict(reference, start[0])
        torchopt.recover_state_dict(optimizer, start[1])
        for _ in range(3):
            optimizer.step(task_loss(reference(episode.support.x[t]), episode.support.y[t]))
        losses.append(task_loss(reference(episode.query.x[t]), episode.query.y[t]))
    gradients = torch.autograd.grad(torch.stack(losses).mean(), meta_parameters)
    expected = dict(zip(dict(network.named_parameters()), gradients, strict=True))
    assert_equal_gradients(meta_gradient(MAML(network, inner_lr=0.1, inner_steps=3), episode), expected)


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(4), nn.LayerNorm(4), nn.InstanceNorm1d(4)])
def test_layers_with_wrong_second_derivatives_are_refused(layer):
    with pytest.raises(ValueError, match=f"layer 1 is {type(layer).__name__}.*metabook.networks.Norm"):
        MAML(nn.Sequential(nn.Linear(2, 4), layer))


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="cannot be negative, got -0.1 and 1"):
        MAML(nn.Linear(1, 1), inner_lr=-0.1)
    with pytest.raises(ValueError, match="Identity has no parameters"):
        MAML(nn.Identity())
