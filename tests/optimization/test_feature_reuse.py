"""ANIL and BOIL: MAML whose inner loop moves the head alone, or all but the head; and what moved."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from examples import classification, regression
from torch import nn
from torch.autograd import gradcheck

from metabook import ANIL, MAML, Set
from metabook.networks import conv4, mlp
from metabook.optimization.feature_reuse import BOIL, activations, cka


def gradients(learner, episode, network):
    learner.zero_grad(set_to_none=True)
    learner.meta_loss(episode).backward()
    return [p.grad.clone() for p in network.parameters()]


def one_task(episode):
    return Set(*(t[0] for t in episode.support))


def test_anil_with_the_whole_network_as_head_is_maml(device):
    network = mlp([5, 7, 3], nn.Tanh).double().to(device)
    maml, anil = MAML(network, 0.3, 2), ANIL(nn.Identity(), network, 0.3, 2)
    got, expected = (gradients(learner, classification(device=device), network) for learner in (anil, maml))
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-14)


def test_the_inner_loop_of_anil_moves_the_head_and_leaves_the_features():
    features, head = mlp([5, 7]).double(), nn.Linear(7, 3).double()
    before = [p.clone() for p in features.parameters()]
    state = ANIL(features, head, 0.3, 2).adapt(one_task(classification()))
    assert state.keys() == dict(head.named_parameters()).keys()
    assert all((state[name] != p).any() for name, p in head.named_parameters())
    assert all(torch.equal(p, q) for p, q in zip(features.parameters(), before, strict=True))


@pytest.mark.parametrize("method", [ANIL, BOIL])
def test_meta_gradient_by_finite_differences(method):
    """Both parts are meta-learned, whichever is adapted: through the query and through every inner step."""
    learner = method(mlp([2, 3], nn.Tanh), nn.Linear(3, 1), inner_lr=0.2, inner_steps=2).double()
    episode = regression(tasks=2)
    assert gradcheck(lambda *_: learner.meta_loss(episode), tuple(learner.parameters()))


def test_features_are_computed_once_whatever_the_number_of_steps():
    calls = []
    features = conv4(channels=2, image_size=16)
    features.register_forward_hook(lambda *_: calls.append(1))
    episode = classification(shape=(1, 16, 16), dtype=torch.float32)
    for steps in (1, 7):
        calls.clear()
        ANIL(features, nn.Linear(2, 3), inner_steps=steps).meta_loss(episode).backward()
        assert len(calls) == 2  # support and query


def test_a_part_that_is_adapted_needs_parameters():
    with pytest.raises(ValueError, match="nothing to adapt"):
        ANIL(mlp([5, 3]), nn.Identity())
    with pytest.raises(ValueError, match="nothing to adapt"):
        BOIL(nn.Flatten(), nn.Linear(5, 3))
    with pytest.raises(ValueError, match="second derivatives are wrong"):
        BOIL(nn.Sequential(nn.Linear(5, 3), nn.LayerNorm(3)), nn.Linear(3, 3))


@pytest.mark.parametrize("first_order", [False, True])
def test_boil_with_the_whole_network_as_features_is_maml(first_order, device):
    network = mlp([5, 7, 3], nn.Tanh).double().to(device)
    maml, boil = MAML(network, 0.3, 2, first_order), BOIL(network, nn.Identity(), 0.3, 2, first_order)
    torch.testing.assert_close(
        *(gradients(learner, classification(device=device), network) for learner in (maml, boil))
    )


def test_the_inner_loop_of_boil_moves_the_features_and_leaves_the_head():
    features, head = mlp([5, 7]).double(), nn.Linear(7, 3).double()
    state = BOIL(features, head, 0.3, 2).adapt(one_task(classification()))
    assert state.keys() == dict(features.named_parameters()).keys()
    assert all((state[name] != p).any() for name, p in features.named_parameters())


def test_one_step_of_maml_on_the_head_alone_is_anil_and_on_the_rest_is_boil():
    """After one step from the same start the three differ only in which weights they move."""
    network, support = mlp([5, 7, 3], nn.Tanh).double(), one_task(classification())
    whole = MAML(network, 0.3).adapt(support)
    head, features = ANIL(network[:2], network[2:], 0.3), BOIL(network[:2], network[2:], 0.3)
    for state in (head.adapt(support), features.adapt(support)):
        torch.testing.assert_close(state, {name: whole[name] for name in state})


@pytest.mark.parametrize("method", [ANIL, BOIL])
def test_zero_rate_is_joint_training(method):
    network, episode = mlp([5, 7, 3], nn.Tanh).double(), classification()
    x, y = (t.flatten(0, 1) for t in episode.query)
    joint = torch.autograd.grad(F.cross_entropy(network(x), y), list(network.parameters()))
    got = gradients(method(network[:2], network[2:], inner_lr=0.0, inner_steps=2), episode, network)
    torch.testing.assert_close(got, list(joint))


def test_one_step_from_a_head_of_zeros_compares_with_the_class_means():
    """With zero weights every class has probability 1/N, so the gradient of the weights of class k is (m - c_k) / N,
    with c_k the mean of its features and m the mean of all, and the logits are alpha/N f . (c_k - m)."""
    episode, ways, alpha = classification(ways=3, shots=2), 3, 0.7
    head = nn.Linear(7, ways).double()
    nn.init.zeros_(head.weight), nn.init.zeros_(head.bias)
    learner, support = ANIL(mlp([5, 7], nn.Tanh).double(), head, alpha), one_task(episode)
    f = learner.features(support.x)
    prototypes = torch.stack([f[support.y == k].mean(0) for k in range(ways)])
    x = episode.query.x[0]
    expected = alpha / ways * learner.features(x) @ (prototypes - f.mean(0)).mT
    torch.testing.assert_close(learner.predict(learner.adapt(support), x), expected)


def test_activations_are_the_outputs_of_the_layers():
    network, x = conv4(channels=2, outputs=3, image_size=16), torch.rand(4, 1, 16, 16)
    answers = activations(network, x)
    assert list(answers) == ["0", "1", "2", "3", "4", "5"]
    assert answers["0"].shape == (4, 2 * 8 * 8)
    torch.testing.assert_close(answers["5"], network(x))
    torch.testing.assert_close(answers["1"], network[:2](x).flatten(1))


def test_activations_of_adapted_weights():
    network, support = mlp([5, 7, 3], nn.Tanh).double(), one_task(classification())
    learner = MAML(network, 0.3)
    state = learner.adapt(support)
    assert torch.equal(activations(network, support.x, state)["2"], learner.predict(state, support.x))
    head = {name: w for name, w in state.items() if name.startswith("2.")}
    before, after = activations(network, support.x), activations(network, support.x, head)
    assert torch.equal(before["1"], after["1"]) and not torch.equal(before["2"], after["2"])


def features_of(examples, d, seed=0):
    return torch.randn(examples, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_cka_is_that_of_the_paper():
    """The form in the features, with its centring, in another library."""
    a, b = features_of(30, 6).numpy(), features_of(30, 4, seed=1).numpy()
    b[:, 0] += a[:, 0]
    a, b = a - a.mean(0), b - b.mean(0)
    expected = np.linalg.norm(b.T @ a) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    assert cka(torch.tensor(a + 3), torch.tensor(b - 1)).item() == pytest.approx(expected, rel=1e-12)


def test_cka_does_not_see_turns_scale_shift_and_the_order_of_units():
    a, b = features_of(30, 6), features_of(30, 5, seed=1)
    turn = torch.linalg.qr(features_of(6, 6, seed=2)).Q
    same = (a @ turn, -2.5 * a, a + 7, a[:, torch.randperm(6)])
    for other in same:
        torch.testing.assert_close(cka(a, other), torch.ones((), dtype=torch.float64))
        torch.testing.assert_close(cka(other, b), cka(a, b))
    torch.testing.assert_close(cka(a, b), cka(b, a))


def test_cka_sees_a_map_that_is_not_orthogonal():
    a = features_of(200, 6)
    assert cka(a, a * torch.tensor([10.0, 1, 1, 1, 1, 1])) < 0.7


def test_cka_of_independent_features_vanishes_with_many_examples_only():
    many, few = (cka(features_of(n, 50), features_of(n, 50, seed=1)) for n in (5000, 10))
    assert many < 0.02 and few > 0.5


@pytest.mark.parametrize("shapes", [((3, 2), (4, 2)), ((3,), (3,)), ((1, 2), (1, 2)), ((3, 2, 2), (3, 4))])
def test_cka_of_what_does_not_match_is_refused(shapes):
    with pytest.raises(ValueError, match="cka compares two matrices .* got"):
        cka(*(torch.zeros(shape) for shape in shapes))
