"""Reptile: the surrogate's gradient is the way to the trained weights, and has the terms that the paper says."""

import pytest
import torch
import torch.nn.functional as F
from examples import classification, regression
from torch import nn
from torch.func import functional_call

from metabook import MAML, Episode, Reptile, task_loss
from metabook.networks import mlp
from metabook.tasks import Quadratics


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


def test_a_batch_moves_by_the_mean_of_what_its_tasks_would_do_alone(device):
    """Serial Reptile is a meta-batch of one; the batched update is the mean of the serial ones from the same start."""
    learner, episode = Reptile(mlp([2, 4, 1], nn.Tanh).double().to(device), 0.1, 3), regression(tasks=3, device=device)
    alone = [flat_gradient(learner, part) for part in episode.split(1)]
    torch.testing.assert_close(flat_gradient(learner, episode), torch.stack(alone).mean(0))


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_closed_form_on_quadratics(steps, device):
    """With P = I - alpha H: the way to the trained weights is (I - P^k) (phi - c)."""
    family, alpha = Quadratics(features=4, device=device), 0.3
    bowls = family.bowls(6, family.generator(0))
    network = nn.Linear(4, 1, bias=False).double().to(device)
    identity = torch.eye(4, dtype=torch.float64, device=device)
    shrink = torch.linalg.matrix_power(identity - alpha * bowls.hessian, steps)
    offset = (network.weight.detach()[0] - bowls.centre)[:, :, None]
    expected = ((identity - shrink) @ offset).mean(0).squeeze(-1)
    got = flat_gradient(Reptile(network, alpha, steps), family.episode(bowls))
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def flat_gradient(learner, episode):
    learner.zero_grad()
    learner.meta_loss(episode).backward()
    return torch.cat([p.grad.flatten() for p in learner.parameters()])


def leading_terms(network, episode, alpha, steps):
    """Gradients at the start, and the two products of second derivatives, on support and query of one task."""
    weights = list(network.parameters())

    def flat(tensors):
        return torch.cat([t.flatten() for t in tensors])

    def gradient(part):
        return flat(torch.autograd.grad(task_loss(network(part.x[0]), part.y[0]), weights, create_graph=True))

    support, query = gradient(episode.support), gradient(episode.query)
    support_query = flat(torch.autograd.grad(support @ query.detach(), weights, retain_graph=True))  # H_S g_Q
    query_support = flat(torch.autograd.grad(query @ support.detach(), weights, retain_graph=True))  # H_Q g_S
    return {
        "MAML": query - alpha * steps * (query_support + support_query),
        "FOMAML": query - alpha * steps * query_support,
        "Reptile": alpha * (steps * support - 0.5 * steps * (steps - 1) * alpha * support_query),
    }


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("name", ["MAML", "FOMAML", "Reptile"])
def test_leading_terms_of_the_expansion(name, steps):
    """Nichol et al., section 5.1: what is left after the terms of order 0 and 1 in alpha falls with its square.

    MAML takes `steps` on the support set and one gradient on the query set, their k = steps + 1.  Reptile's examples
    are all the same here, so that its H_S g_Q is the full batch's H g.
    """
    network, episode = mlp([2, 6, 1], nn.Tanh).double(), regression(tasks=1)
    if name == "Reptile":
        episode = Episode(episode.support, episode.support)
    left = []
    for alpha in (1e-2, 1e-3):
        learner = Reptile(network, alpha, steps) if name == "Reptile" else MAML(network, alpha, steps, name == "FOMAML")
        rest = flat_gradient(learner, episode) - leading_terms(network, episode, alpha, steps)[name].detach()
        left.append(rest.norm() / (alpha if name == "Reptile" else 1))
    if name == "Reptile" and steps == 1:
        assert max(left) < 1e-12  # one step is its first term and nothing else
    else:
        assert 80 < left[0] / left[1] < 120


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
