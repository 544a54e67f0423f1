"""Prototypes against their definition, and the nearest neighbour, linear classifier and k-means that they equal."""

import math

import pytest
import torch
import torch.nn.functional as F
from examples import classification
from torch import nn

from metabook import NearestNeighbour, PrototypicalNetwork, Set
from metabook.gradient import meta_gradient
from metabook.metric.prototypical_networks import CosineDistance, prototypes, responsibilities, squared_distances
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


def task(episode, part="support"):
    """The first task's set."""
    return Set(*(t[0] for t in getattr(episode, part)))


def unlabelled(examples=7, features=5):
    return 2 * torch.randn(examples, features, dtype=torch.float64)


def cosine_learner(scale=10.0):
    return PrototypicalNetwork(mlp([5, 8, 4]), 3, CosineDistance(scale)).double()


def test_cosine_distance_is_that_of_torch(device):
    a = torch.randn(5, 4, dtype=torch.float64, device=device)
    b = torch.randn(3, 4, dtype=torch.float64, device=device)
    expected = 10 * (1 - F.cosine_similarity(a[:, None], b, dim=-1))
    torch.testing.assert_close(CosineDistance(10.0).double().to(device)(a, b), expected, rtol=1e-6, atol=1e-6)


def test_cosine_distance_is_half_the_squared_one_on_the_unit_sphere():
    a, b = (F.normalize(torch.randn(n, 4, dtype=torch.float64), dim=-1) for n in (5, 3))
    torch.testing.assert_close(CosineDistance(1.0).double()(a, b), squared_distances(a, b) / 2)


def test_cosine_ignores_the_length_of_embeddings_and_prototypes():
    a, b = torch.randn(5, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    distance = CosineDistance().double()
    torch.testing.assert_close(distance(7 * a, b / 3), distance(a, b))


def test_learned_scale_has_the_gradient_of_finite_differences():
    episode = classification()
    learner = cosine_learner()
    learner.meta_loss(episode).backward()
    gradient, h = learner.distance.log_scale.grad.item(), 1e-5
    losses = []
    for sign in (1, -1):
        with torch.no_grad():
            learner.distance.log_scale += sign * h
            losses.append(learner.meta_loss(episode).item())
            learner.distance.log_scale -= sign * h
    assert gradient == pytest.approx((losses[0] - losses[1]) / (2 * h), rel=1e-6)


def test_a_stated_scale_is_not_trained():
    learner = PrototypicalNetwork(mlp([5, 4]), 3, CosineDistance(10.0, learn=False)).double()
    learner.meta_loss(classification()).backward()
    assert learner.distance.log_scale.grad is None


@pytest.mark.parametrize("distance", [squared_distances, CosineDistance()])
def test_traced_gradients_are_those_of_the_code(distance):
    """The scale of the cosine is a meta-parameter and must not be frozen at its first value."""
    learner = PrototypicalNetwork(mlp([5, 8, 4], nn.Tanh), 3, distance).double()
    traced = meta_gradient(learner, mode="traced")
    for seed in (0, 1):
        episode, gradients = classification(seed=seed), []
        for accumulate in (traced, meta_gradient(learner)):
            learner.zero_grad()
            accumulate(episode)
            gradients.append([p.grad.clone() for p in learner.parameters()])
        torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-11)
        with torch.no_grad():
            for p in learner.parameters():
                p += 0.1


def test_responsibilities_sum_to_one():
    distances = squared_distances(unlabelled(), torch.randn(4, 5, dtype=torch.float64))
    distances[:, 2] = torch.inf
    shares = responsibilities(distances)
    torch.testing.assert_close(shares.sum(-1), torch.ones(7, dtype=torch.float64))
    assert (shares[:, 2] == 0).all()


def test_an_example_at_the_reach_is_half_nobodys():
    shares = responsibilities(torch.tensor([[3.0, torch.inf], [1.0, torch.inf], [30.0, torch.inf]]), reach=3.0)
    expected = torch.tensor([0.5, 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(27))])
    torch.testing.assert_close(shares[:, 0], expected)


def test_without_unlabelled_examples_the_prototypes_stay(device):
    learner = PrototypicalNetwork(mlp([5, 4]).double().to(device), 4)
    state = learner.adapt(task(classification(device=device)))
    for part, expected in zip(learner.refine(state, torch.empty(0, 5).to(state.centres), steps=3), state, strict=True):
        torch.testing.assert_close(part, expected)


def test_unlabelled_examples_out_of_reach_change_nothing():
    learner = PrototypicalNetwork(nn.Identity(), 3)
    state = learner.adapt(task(classification()))
    refined = learner.refine(state, unlabelled() + 1000, steps=2, reach=50.0)
    torch.testing.assert_close(refined.centres, state.centres)


def test_a_refined_prototype_is_the_mean_weighted_by_shares():
    learner = PrototypicalNetwork(mlp([5, 4]).double(), 3)
    support, x = task(classification()), unlabelled()
    state = learner.adapt(support)
    z, unknown = learner.encoder(support.x), learner.encoder(x)
    shares = learner.predict(state, x).softmax(-1)
    for k in range(3):
        points = torch.cat([z[support.y == k], unknown])
        weights = torch.cat([torch.ones(2, dtype=torch.float64), shares[:, k]])
        expected = (weights[:, None] * points).sum(0) / weights.sum()
        torch.testing.assert_close(learner.refine(state, x).centres[k], expected)


def test_with_hard_shares_a_step_is_one_of_k_means():
    learner = PrototypicalNetwork(nn.Identity(), 3, lambda a, b: 1e6 * squared_distances(a, b))
    support, x = task(classification()), unlabelled(30)
    state = learner.adapt(support)
    nearest = torch.cdist(x, state.centres).argmin(-1)
    expected = prototypes(torch.cat([support.x, x]), torch.cat([support.y, nearest]), 3)
    torch.testing.assert_close(learner.refine(state, x).centres, expected)


def test_the_order_of_unlabelled_examples_does_not_matter():
    learner, x = PrototypicalNetwork(mlp([5, 4]).double(), 3), unlabelled()
    state = learner.adapt(task(classification()))
    torch.testing.assert_close(learner.refine(state, x.flip(0), steps=3), learner.refine(state, x, steps=3))


def test_every_step_of_refinement_raises_the_likelihood():
    """Expectation maximisation: of the labelled examples with their labels, and of the unlabelled ones without."""
    learner, support, x = PrototypicalNetwork(nn.Identity(), 3), task(classification()), unlabelled(30)
    state = learner.adapt(support)

    def log_likelihood(state):
        known = learner.predict(state, support.x).gather(1, support.y[:, None]).sum()
        return (known + learner.predict(state, x).logsumexp(-1).sum()).item()

    path = [log_likelihood(state), *(log_likelihood(learner.refine(state, x, steps)) for steps in (1, 2, 5, 50))]
    assert all(later > earlier + 1e-6 for earlier, later in zip(path[:3], path[1:4], strict=True))
    assert path[4] >= path[3] - 1e-9


def test_a_class_without_support_gets_no_unlabelled_example():
    learner, x = PrototypicalNetwork(nn.Identity(), 6), unlabelled()
    support = task(classification())
    refined = learner.refine(learner.adapt(support), x, steps=2)
    exact = PrototypicalNetwork(nn.Identity(), 3)
    torch.testing.assert_close(refined.centres[:3], exact.refine(exact.adapt(support), x, steps=2).centres)
    assert (refined.counts[3:] == 0).all()
    assert (learner.predict(refined, x)[:, 3:] == -torch.inf).all()


def test_refinement_can_be_lifted_over_tasks(device):
    """And differentiated, so that an encoder can be trained with unlabelled examples in its episodes."""
    learner = cosine_learner().to(device)
    episode = classification(device=device)
    x = torch.randn(3, 7, 5, dtype=torch.float64, device=device)

    def answer(support, x, query):
        return learner.predict(learner.refine(learner.adapt(support), x, reach=20.0), query)

    together = torch.func.vmap(answer)(episode.support, x, episode.query.x)
    one = answer(task(episode), x[0], episode.query.x[0])
    torch.testing.assert_close(together[0], one)
    together.logsumexp(-1).sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().max() > 0 for p in learner.parameters())


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_impossible_scales_are_refused(scale):
    with pytest.raises(ValueError, match="scale must be positive and finite"):
        CosineDistance(scale)


def test_impossible_refinements_are_refused():
    learner = PrototypicalNetwork(nn.Identity(), 3)
    state = learner.adapt(task(classification()))
    with pytest.raises(ValueError, match="steps"):
        learner.refine(state, unlabelled(), steps=0)
    for reach in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="reach must be a positive distance"):
            learner.refine(state, unlabelled(), reach=reach)
