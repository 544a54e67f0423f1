"""Relation networks against their definition, written out pair by pair."""

import pytest
import torch
from examples import classification, slopes
from torch import nn

from metabook import Episode, Set
from metabook.metric.prototypical_networks import PrototypicalNetwork
from metabook.metric.relation_networks import RULES, RelationModule, RelationNetwork, relation_encoder
from metabook.networks import mlp


def relation_network(ways=3, rule=RULES[0], device="cpu"):
    """A learner on inputs of 5 features; the same weights at every call."""
    torch.manual_seed(0)
    return RelationNetwork(mlp([5, 4]), mlp([8, 6, 1]), ways, rule).double().to(device)


def convolutional(ways=3, rule=RULES[0], norm="batch"):
    encoder, relation = relation_encoder(channels=4, norm=norm), RelationModule(4, size=4, norm=norm)
    return RelationNetwork(encoder, relation, ways, rule).double()


def images(**kwargs):
    return classification(shape=(1, 16, 16), **kwargs)


def unequal(device="cpu"):
    """One task whose three classes have 1, 3 and 2 support examples."""
    episode = classification(tasks=1, device=device)
    return Set(episode.support.x[0], torch.tensor([0, 1, 1, 1, 2, 2], device=device)), Set(
        *(t[0] for t in episode.query)
    )


def pair_score(learner, a, b):
    return learner.relation(torch.cat([a, b])[None]).sigmoid().squeeze()


def test_the_papers_rule_scores_a_class_once_by_its_summed_embedding(device):
    (support, query), learner = unequal(device), relation_network(device=device)
    f, g = learner.encoder(query.x), learner.encoder(support.x)
    expected = torch.stack(
        [torch.stack([pair_score(learner, g[support.y == k].sum(0), row) for k in range(3)]) for row in f]
    )
    torch.testing.assert_close(learner.predict(learner.adapt(support), query.x), expected)


@pytest.mark.parametrize("rule", RULES[1:])
def test_the_other_rules_sum_or_average_the_scores_of_the_examples(rule, device):
    (support, query), learner = unequal(device), relation_network(rule=rule, device=device)
    f, g = learner.encoder(query.x), learner.encoder(support.x)
    scores = torch.stack([torch.stack([pair_score(learner, row, query) for row in g]) for query in f])
    combine = torch.sum if rule == "summed scores" else torch.mean
    expected = torch.stack([combine(scores[:, support.y == k], dim=1) for k in range(3)], dim=1)
    torch.testing.assert_close(learner.predict(learner.adapt(support), query.x), expected)


def test_the_loss_is_the_squared_error_of_one_score_per_class():
    episode, learner = classification(), relation_network()
    target = torch.nn.functional.one_hot(episode.query.y, 3).double()
    loss, prediction = learner.loss_and_prediction(episode)
    torch.testing.assert_close(loss, (prediction - target).square().mean())
    torch.testing.assert_close(prediction, learner(episode))


def test_scores_of_examples_are_trained_example_by_example():
    (support, query), learner = unequal(), relation_network(rule="summed scores")
    scores = learner.scores(learner.adapt(support), query.x)
    same = query.y[:, None] == support.y
    episode = Episode(*(Set(part.x[None], part.y[None]) for part in (support, query)))
    torch.testing.assert_close(learner.meta_loss(episode), (scores - same.double()).square().mean())


class NegativeSquaredDistance(nn.Module):
    """A relation module that learns nothing: pairs `(n, 2 * d)` -> minus the squared distance of the halves."""

    def __init__(self, shots):
        super().__init__()
        self.shots = shots

    def forward(self, pairs):
        summed, query = pairs.chunk(2, dim=1)
        return -(summed / self.shots - query).square().sum(1, keepdim=True)


def test_a_prototypical_network_is_a_relation_network_whose_module_is_minus_the_squared_distance():
    episode = classification()
    encoder, shots = relation_network().encoder, episode.support.y.shape[1] // 3
    learner = RelationNetwork(encoder, NegativeSquaredDistance(shots), 3)
    for task, expected in enumerate(PrototypicalNetwork(encoder, 3)(episode)):
        state = learner.adapt(Set(episode.support.x[task], episode.support.y[task]))
        torch.testing.assert_close(learner.logits(state, episode.query.x[task]), expected)
        torch.testing.assert_close(learner.scores(state, episode.query.x[task]), expected.sigmoid())


def test_with_one_example_per_class_all_rules_are_one():
    episode = classification(shots=1)
    losses, predictions = zip(
        *(relation_network(rule=rule).loss_and_prediction(episode) for rule in RULES), strict=True
    )
    for loss, prediction in zip(losses[1:], predictions[1:], strict=True):
        torch.testing.assert_close(loss, losses[0])
        torch.testing.assert_close(prediction, predictions[0])


def test_repeating_the_support_leaves_mean_scores_alone_doubles_sums_and_changes_the_papers():
    episode = classification()
    twice = episode._replace(support=Set(*(torch.cat([part, part], dim=1) for part in episode.support)))
    once, again = ({rule: relation_network(rule=rule)(e) for rule in RULES} for e in (episode, twice))
    torch.testing.assert_close(again["mean scores"], once["mean scores"])
    torch.testing.assert_close(again["summed scores"], 2 * once["summed scores"])
    assert not torch.allclose(again["summed embeddings"], once["summed embeddings"])


@pytest.mark.parametrize("rule", RULES)
def test_a_batch_of_tasks_is_a_loop_over_tasks(rule):
    """Feature maps and batch statistics, which must be those of one task."""
    episode, learner = images(), convolutional(rule=rule)
    loss, prediction = learner.loss_and_prediction(episode)
    losses = []
    for task, part in enumerate(episode.split(1)):
        state = learner.adapt(Set(part.support.x[0], part.support.y[0]))
        torch.testing.assert_close(learner.predict(state, part.query.x[0]), prediction[task])
        losses.append(learner.meta_loss(part))
    torch.testing.assert_close(loss, torch.stack(losses).mean())


@pytest.mark.parametrize("rule", RULES)
def test_neither_the_order_of_the_support_nor_the_names_of_the_classes_matter(rule):
    episode, learner = images(), convolutional(rule=rule)
    order, names = torch.tensor([3, 0, 5, 1, 4, 2]), torch.tensor([2, 0, 1])
    changed = Episode(
        Set(episode.support.x[:, order], names[episode.support.y[:, order]]),
        Set(episode.query.x, names[episode.query.y]),
    )
    torch.testing.assert_close(learner(changed)[..., names], learner(episode))
    torch.testing.assert_close(learner.meta_loss(changed), learner.meta_loss(episode))


@pytest.mark.parametrize("rule", RULES)
def test_more_ways_than_the_episode_has_changes_nothing(rule):
    episode, gradients = classification(), []
    for ways in (3, 10):
        learner = relation_network(ways, rule)
        learner.meta_loss(episode).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in learner.parameters()]))
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(learner(episode)[..., :3], relation_network(3, rule)(episode))
    assert (learner(episode)[..., 3:] == -torch.inf).all()


@pytest.mark.parametrize("rule", RULES)
def test_the_gradient_is_that_of_finite_differences(rule):
    """Of the meta-loss, along a random direction of all parameters."""
    episode, learner = images(tasks=2, ways=2), convolutional(2, rule)
    finite, exact = slopes(learner, episode, step=1e-7)
    torch.testing.assert_close(finite, exact, rtol=1e-5, atol=1e-9)


def test_queries_see_each_other_through_batch_statistics_only():
    episode = images(tasks=1)
    alone = episode._replace(query=Set(*(part[:, :1] for part in episode.query)))
    for norm in ("batch", "group"):
        learner = convolutional(norm=norm)
        agree = torch.allclose(learner(alone)[0, 0], learner(episode)[0, 0])
        assert learner.transductive == (not agree) == (norm == "batch")


def test_the_papers_networks_have_its_shapes():
    """64 maps of 7x7 for Omniglot; the relation module ends in layers of 64 -> 8 -> 1."""
    maps = relation_encoder()(torch.zeros(2, 1, 28, 28))
    module = RelationModule()
    assert maps.shape == (2, 64, 7, 7)
    assert module(torch.cat([maps, maps], dim=1)).shape == (2, 1)
    assert [tuple(layer.weight.shape) for layer in module.rest if isinstance(layer, nn.Linear)] == [(8, 64), (1, 8)]


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_the_relation_module_says_the_same_of_pairs_one_by_one_and_all_together(norm):
    torch.manual_seed(0)
    module = RelationModule(4, size=4, norm=norm).double()
    torch.nn.init.normal_(module.pair.norm.weight)  # scales of both signs
    items, queries = (torch.randn(n, 4, 4, 4, dtype=torch.float64, requires_grad=True) for n in (3, 5))
    pairs = torch.stack([torch.cat([item, query]) for query in queries for item in items])
    inputs = [items, queries, *module.parameters()]
    weights = torch.randn(15, 1, dtype=torch.float64)
    for one, all_at_once in zip(
        *(
            torch.autograd.grad((logits * weights).sum(), inputs)
            for logits in (module(pairs), module.of_all_pairs(items, queries))
        ),
        strict=True,
    ):
        torch.testing.assert_close(one, all_at_once)
    torch.testing.assert_close(module(pairs), module.of_all_pairs(items, queries))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RelationNetwork(nn.Identity(), nn.Identity(), 1), "at least 2 ways, got 1"),
        (lambda: RelationNetwork(nn.Identity(), nn.Identity(), 3, "sum"), "rule must be one of .*, got 'sum'"),
        (lambda: RelationModule(size=3), "size 4 at least, got 3"),
        (lambda: RelationModule(hidden=0), "hidden must be a positive integer, got 0"),
        (lambda: relation_encoder(channels=0), "channels must be a positive integer, got 0"),
        (lambda: relation_encoder(norm="layer"), "norm must be .*, got 'layer'"),
        (lambda: RelationModule(norm="layer"), "norm must be .*, got 'layer'"),
        (
            lambda: RelationNetwork(nn.Identity(), mlp([10, 2]).double(), 3)(classification()),
            r"relation must map 18 pairs to \(18, 1\), got \(18, 2\)",
        ),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
