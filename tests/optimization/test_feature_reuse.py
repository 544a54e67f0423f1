"""ANIL: MAML whose inner loop moves the head alone."""

import pytest
import torch
from examples import classification, regression
from torch import nn
from torch.autograd import gradcheck
from torch.func import functional_call

from metabook import ANIL, MAML
from metabook.networks import conv4, mlp


def test_with_the_whole_network_as_head_it_is_maml(device):
    network = mlp([5, 7, 3], nn.Tanh).double().to(device)
    episode = classification(device=device)
    grads = []
    for learner in (MAML(network, 0.3, 2), ANIL(nn.Identity(), network, 0.3, 2)):
        learner.zero_grad(set_to_none=True)
        learner.meta_loss(episode).backward()
        grads.append([p.grad.clone() for p in network.parameters()])
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-14)


def test_the_inner_loop_moves_the_head_and_leaves_the_features():
    features, head = mlp([5, 7]).double(), nn.Linear(7, 3).double()
    before = [p.clone() for p in features.parameters()]
    learner, episode = ANIL(features, head, 0.3, 2), classification(tasks=1)
    state = learner.adapt(type(episode.support)(*(t[0] for t in episode.support)))
    assert state.keys() == dict(head.named_parameters()).keys()
    assert all((state[name] != p).any() for name, p in head.named_parameters())
    assert all(torch.equal(p, q) for p, q in zip(features.parameters(), before, strict=True))


def test_meta_gradient_by_finite_differences():
    """Both parts are meta-learned: the features through the query and through every inner step."""
    learner = ANIL(mlp([2, 3], nn.Tanh), nn.Linear(3, 1), inner_lr=0.2, inner_steps=2).double()
    episode = regression(tasks=2)
    names = [name for name, _ in learner.named_parameters()]

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.learner = learner

        def forward(self):
            return self.learner.meta_loss(episode)

    loss = Loss()

    def of(*values):
        return functional_call(loss, {f"learner.{n}": v for n, v in zip(names, values, strict=True)}, ())

    assert gradcheck(of, tuple(p.detach().clone().requires_grad_() for p in learner.parameters()))


def test_features_are_computed_once_whatever_the_number_of_steps():
    calls = []
    features = conv4(channels=2, image_size=16)
    features.register_forward_hook(lambda *_: calls.append(1))
    episode = classification(shape=(1, 16, 16), dtype=torch.float32)
    for steps in (1, 7):
        calls.clear()
        ANIL(features, nn.Linear(2, 3), inner_steps=steps).meta_loss(episode).backward()
        assert len(calls) == 2  # support and query


def test_a_head_without_parameters_is_refused():
    with pytest.raises(ValueError, match="nothing to adapt"):
        ANIL(mlp([5, 3]), nn.Identity())
