"""Reptile: the surrogate's gradient is the way to the trained weights."""

import pytest
import torch
import torch.nn.functional as F
from examples import classification, regression
from torch import nn
from torch.func import functional_call

from metabook import Reptile
from metabook.networks import mlp


def trained_by_hand(network, x, y, lr, steps):
    """Plain gradient descent, with autograd and in place."""
    weights = {name: p.detach().clone().requires_grad_() for name, p in network.named_parameters()}
    for _ in range(steps):
        loss = F.cross_entropy(functional_call(network, weights, (x,)), y)
        for w, g in zip(weights.values(), torch.autograd.grad(loss, list(weights.values())), strict=True):
            w.data -= lr * g
    return weights


def test_gradient_is_the_start_minus_the_mean_of_the_trained_weights(device):
    network = mlp([5, 7, 3], nn.Tanh).double().to(device)
    learner, episode = Reptile(network, inner_lr=0.3, inner_steps=4), classification(device=device)
    learner.meta_loss(episode).backward()
    ends = [
        trained_by_hand(
            network,
            torch.cat([episode.support.x[t], episode.query.x[t]]),
            torch.cat([episode.support.y[t], episode.query.y[t]]),
            0.3,
            4,
        )
        for t in range(episode.tasks)
    ]
    for name, p in network.named_parameters():
        mean = torch.stack([end[name].detach() for end in ends]).mean(0)
        torch.testing.assert_close(p.grad, p.detach() - mean, rtol=1e-10, atol=1e-14)


def test_plain_descent_with_rate_one_goes_all_the_way():
    network = mlp([2, 4, 1], nn.Tanh).double()
    learner, episode = Reptile(network, 0.1, 3), regression(tasks=1)
    phi = learner.adapt(type(episode.support)(*(torch.cat(both, dim=1)[0] for both in zip(*episode, strict=True))))
    learner.meta_loss(episode).backward()
    torch.optim.SGD(network.parameters(), lr=1.0).step()
    torch.testing.assert_close({n: p.detach() for n, p in network.named_parameters()}, phi)


def test_one_step_is_joint_training(device):
    """With k = 1 the update is alpha times the gradient of the loss of one network on all examples of all tasks."""
    network = mlp([2, 4, 1], nn.Tanh).double().to(device)
    episode = regression(device=device)
    Reptile(network, inner_lr=0.05, inner_steps=1).meta_loss(episode).backward()
    surrogate = [p.grad.clone() for p in network.parameters()]
    x, y = (torch.cat(both, dim=1).flatten(0, 1) for both in zip(*episode, strict=True))
    joint = torch.autograd.grad(F.mse_loss(network(x), y), list(network.parameters()))
    torch.testing.assert_close(surrogate, [0.05 * g for g in joint])


def test_minibatches_deal_every_example_before_any_comes_twice():
    episode = regression(tasks=3, shots=4, queries=6)
    learner = Reptile(mlp([2, 4, 1]), inner_steps=7, inner_batch=5)
    batches = learner._minibatches(episode)
    assert [b.x.shape for b in batches] == [(3, 5, 2)] * 7
    every = torch.cat([episode.support.x, episode.query.x], dim=1)
    for first, second in ((0, 1), (2, 3), (4, 5)):
        for task in range(3):
            dealt = torch.cat([batches[first].x[task], batches[second].x[task]])
            assert {tuple(row.tolist()) for row in dealt} == {tuple(row.tolist()) for row in every[task]}
    assert (batches[0].x != batches[2].x).any()
    target = torch.cat([episode.support.y, episode.query.y], dim=1)
    for batch in batches:
        for x, y in zip(batch.x[1], batch.y[1], strict=True):
            assert torch.equal(y, target[1][(every[1] == x).all(-1)][0])


def test_minibatches_repeat_with_the_seed():
    episode, losses = regression(), []
    learner = Reptile(mlp([2, 4, 1]).double(), inner_steps=3, inner_batch=4)
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(learner.meta_loss(episode).item())
    assert losses[0] == losses[1] != losses[2]


def test_evaluation_adapts_to_the_support_set_alone():
    learner, episode = Reptile(mlp([5, 7, 3]).double(), 0.3, 2), classification()
    other = episode._replace(query=episode.query._replace(y=1 - episode.query.y.clamp(max=1)))
    torch.testing.assert_close(learner(episode), learner(other))


def test_bad_minibatches_are_refused():
    with pytest.raises(ValueError, match="positive number of examples or None for all, got 0"):
        Reptile(mlp([2, 1]), inner_batch=0)
    learner = Reptile(mlp([2, 4, 1]).double(), inner_batch=10)
    with pytest.raises(ValueError, match="inner_batch is 10, but a task holds 9 examples"):
        learner.meta_loss(regression())
