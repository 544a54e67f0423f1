"""Prototypes against their definition, the nearest neighbour and the linear classifier they are equal to."""

import pytest
import torch
from examples import classification
from torch import nn

from metabook import NearestNeighbour, PrototypicalNetwork, Set
from metabook.metric.prototypical_networks import prototypes, squared_distances
from metabook.networks import mlp


def test_prototypes_are_class_means(device):
    embeddings = torch.randn(7, 3, dtype=torch.float64, device=device)
    y = torch.tensor([0, 2, 1, 0, 2, 2, 1], device=device)
    expected = torch.stack([embeddings[y == k].mean(0) for k in range(3)])
    torch.testing.assert_close(prototypes(embeddings, y, 3), expected)


def test_squared_distances_are_those_of_cdist(device):
    a = torch.randn(5, 4, dtype=torch.float64, device=device)
    b = torch.randn(3, 4, dtype=torch.float64, device=device)
    torch.testing.assert_close(squared_distances(a, b), torch.cdist(a, b).square())


def test_one_shot_in_pixels_is_the_nearest_neighbour():
    """With one example per class and no encoder, the prototype is the example: logits agree, not only answers."""
    episode = classification(tasks=20, ways=4, shots=1, queries=3)
    prototypical, neighbour = PrototypicalNetwork(nn.Identity(), 4), NearestNeighbour(4)
    torch.testing.assert_close(prototypical(episode), neighbour(episode), rtol=1e-10, atol=1e-10)


def test_squared_euclid_is_a_linear_classifier():
    """-||z - c||^2 = -||z||^2 + 2 c.z - ||c||^2: the softmax is that of weights 2 c and biases -||c||^2."""
    encoder, episode = mlp([5, 8, 4]).double(), classification()
    learner = PrototypicalNetwork(encoder, 3)
    state = learner.adapt(Set(episode.support.x[0], episode.support.y[0]))
    linear = encoder(episode.query.x[0]) @ (2 * state.centres).T - state.centres.square().sum(-1)
    expected = learner.predict(state, episode.query.x[0]).softmax(-1)
    torch.testing.assert_close(linear.softmax(-1), expected, rtol=1e-10, atol=1e-12)


def test_more_ways_than_the_episode_has_changes_nothing(device):
    """A class without support is never predicted; losses and gradients are those of the exact number of ways."""
    episode = classification(device=device)
    encoder = mlp([5, 4]).double().to(device)
    exact, wide = PrototypicalNetwork(encoder, 3), PrototypicalNetwork(encoder, 10)
    gradients = []
    for learner in (exact, wide):
        learner.zero_grad()
        learner.meta_loss(episode).backward()
        gradients.append(encoder[0].weight.grad.clone())
    torch.testing.assert_close(*gradients)
    assert (wide(episode)[..., 3:] == -torch.inf).all()


def test_scores_of_a_class_do_not_depend_on_repeating_the_support():
    episode = classification()
    learner = PrototypicalNetwork(mlp([5, 4]).double(), 3)
    twice = episode._replace(support=Set(*(torch.cat([t, t], dim=1) for t in episode.support)))
    torch.testing.assert_close(learner(twice), learner(episode))


def test_too_few_ways_are_refused():
    with pytest.raises(ValueError, match="at least 2 ways, got 1"):
        PrototypicalNetwork(nn.Identity(), 1)
