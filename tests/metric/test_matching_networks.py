"""Siamese and matching networks against their definitions, PyTorch's LSTM, and the nearest neighbour they become."""

import math

import pytest
import torch
import torch.nn.functional as F
from examples import classification, slopes
from torch import nn

from metabook import Episode, NearestNeighbour, Set
from metabook.metric.matching_networks import (
    Contrastive,
    FullContext,
    MatchingNetwork,
    SiameseNetwork,
    Verification,
    attention_vote,
    best_match,
    cosines,
)
from metabook.networks import conv4, mlp


def doubles(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def encoder():
    return mlp([5, 8, 4]).double()


def learners(ways=3):
    """Every learner of the module, on inputs of 5 features."""
    return {
        "contrastive": SiameseNetwork(encoder(), ways, Contrastive(2.0)),
        "verification": SiameseNetwork(encoder(), ways, Verification(4).double()),
        "matching": MatchingNetwork(encoder(), ways, scale=10.0, learn_scale=True).double(),
        "full context": MatchingNetwork(encoder(), ways, FullContext(4, steps=3).double()),
    }


NAMES = tuple(learners())


def one(episode, task=0):
    """Support and query of one task."""
    return (Set(part.x[task], part.y[task]) for part in episode)


# comparisons


def test_contrastive_loss_is_that_of_hadsell():
    """Distances 0.5 and 3 with margin 2: 0.5^2 / 2 and 3^2 / 2 for one class, 1.5^2 / 2 and 0 for two."""
    comparison = Contrastive(margin=2.0)
    a, b = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.3, 0.4], [0.0, 3.0]])
    similarities = comparison(a, b)
    torch.testing.assert_close(similarities, torch.tensor([[-0.5, -3.0]]))
    yes = torch.ones(1, 2, dtype=torch.bool)
    torch.testing.assert_close(comparison.loss(similarities, yes), torch.tensor([[0.125, 4.5]]))
    torch.testing.assert_close(comparison.loss(similarities, ~yes), torch.tensor([[1.125, 0.0]]))


def test_two_equal_embeddings_of_different_classes_have_a_finite_gradient():
    a = torch.ones(1, 3, requires_grad=True)
    comparison = Contrastive()
    comparison.loss(comparison(a, a), torch.tensor([[False]])).sum().backward()
    torch.testing.assert_close(a.grad, torch.zeros(1, 3))


def test_verification_is_a_logistic_unit_on_absolute_differences():
    comparison, a, b = Verification(4).double(), doubles(3, 4), doubles(2, 4)
    weight, bias = comparison.unit.weight[0], comparison.unit.bias
    expected = torch.stack([torch.stack([weight @ (p - q).abs() for q in b]) for p in a]) + bias
    torch.testing.assert_close(comparison(a, b), expected)
    same = torch.tensor([[True, False], [False, False], [True, True]])
    p = expected.sigmoid()
    torch.testing.assert_close(comparison.loss(expected, same), -torch.where(same, p, 1 - p).log())


def test_before_training_a_larger_difference_is_less_likely_of_one_class():
    comparison, direction = Verification(4), torch.rand(1, 4)
    logits = comparison(torch.zeros(1, 4), torch.arange(5.0)[:, None] * direction)
    assert (logits.diff() < 0).all()


def test_siamese_loss_gives_pairs_of_one_class_and_of_two_equal_shares():
    episode = classification()
    learner = learners()["contrastive"]
    loss, prediction = learner.loss_and_prediction(episode)
    expected = []
    for task in range(episode.tasks):
        support, query = one(episode, task)
        a, b = learner.encoder(query.x), learner.encoder(support.x)
        distances, same = torch.cdist(a, b), query.y[:, None] == support.y
        alike, unlike = distances[same].square() / 2, (2.0 - distances[~same]).clamp(min=0).square() / 2
        expected.append((alike.mean() + unlike.mean()) / 2)
    torch.testing.assert_close(loss, torch.stack(expected).mean())
    torch.testing.assert_close(prediction, learner(episode))


def test_an_episode_without_pairs_of_two_classes_has_a_finite_loss():
    x, y = doubles(1, 3, 5), torch.zeros(1, 3, dtype=torch.int64)
    loss = learners()["contrastive"].meta_loss(Episode(Set(x, y), Set(x.flip(1) + 1, y)))
    assert loss.isfinite() and loss > 0


def test_a_siamese_network_in_pixels_is_the_nearest_neighbour():
    episode = classification(tasks=20, ways=4, shots=3, queries=3)
    siamese, neighbour = SiameseNetwork(nn.Identity(), 4, Contrastive()), NearestNeighbour(4)
    torch.testing.assert_close(-siamese(episode).square(), neighbour(episode))


def test_best_match_is_the_class_of_the_most_similar_example(device):
    similarities = torch.tensor([[0.1, 0.9, 0.4], [0.3, -2.0, -1.0]], device=device)
    answer = best_match(similarities, torch.tensor([2, 0, 2], device=device), 3)
    expected = torch.tensor([[0.9, -torch.inf, 0.4], [-2.0, -torch.inf, 0.3]], device=device)
    torch.testing.assert_close(answer, expected)


# attention


def test_matching_is_a_weighted_vote_of_labels(device):
    """A sum of one-hot labels weighted by the softmax of cosines, with shots that differ between classes."""
    episode = classification(device=device)
    support, query = one(episode)
    support = Set(support.x, torch.tensor([0, 2, 2, 2, 1, 1], device=device))
    learner = MatchingNetwork(encoder().to(device), 3).to(device)
    f, g = learner.encoder(query.x), learner.encoder(support.x)
    attention = F.cosine_similarity(f[:, None], g, dim=-1).softmax(-1)
    expected = attention @ F.one_hot(support.y, 3).double()
    torch.testing.assert_close(learner.predict(learner.adapt(support), query.x).exp(), expected)


def test_predictions_are_log_probabilities():
    """So that the cross-entropy is minus the log-probability of the right class."""
    episode = classification()
    for name in ("matching", "full context"):
        prediction = learners()[name](episode)
        torch.testing.assert_close(prediction.exp().sum(-1), torch.ones(prediction.shape[:2], dtype=torch.float64))


def test_the_bare_cosine_has_a_ceiling_and_a_scale_removes_it():
    """One example of five that matches perfectly while the others are opposite gets e / (e + 4 / e) = 65 %."""
    similarities = torch.tensor([[1.0, -1.0, -1.0, -1.0, -1.0]])
    y = torch.arange(5)
    assert attention_vote(similarities, y, 5).exp()[0, 0] == pytest.approx(0.6488, abs=1e-4)
    assert attention_vote(10 * similarities, y, 5).exp()[0, 0] > 0.999


def test_at_the_corners_of_a_simplex_bare_cosines_reach_their_least_mean_loss():
    """log(1 + (ways - 1) * exp(-ways / (ways - 1))) over one query of each class; any other directions lose more."""
    y, corners = torch.arange(5), torch.eye(5, dtype=torch.float64) - 1 / 5
    floor = math.log(1 + 4 * math.exp(-5 / 4))
    assert F.cross_entropy(attention_vote(cosines(corners, corners), y, 5), y).item() == pytest.approx(floor)
    for _ in range(20):
        tilted = corners + 0.3 * doubles(5, 5)
        assert F.cross_entropy(attention_vote(cosines(tilted, corners), y, 5), y) > floor


def test_attention_that_underflows_keeps_a_finite_loss_and_gradient():
    similarities = torch.tensor([[500.0, -500.0]], requires_grad=True)
    loss = F.cross_entropy(attention_vote(similarities, torch.tensor([0, 1]), 3), torch.tensor([1]))
    loss.backward()
    assert loss.item() == pytest.approx(1000)
    torch.testing.assert_close(similarities.grad, torch.tensor([[1.0, -1.0]]))


def test_a_large_scale_makes_one_shot_matching_the_nearest_neighbour_in_angle():
    episode = classification(tasks=20, ways=4, shots=1)
    answers = MatchingNetwork(nn.Identity(), 4, scale=1e4)(episode).argmax(-1)
    unit = episode._replace(**{n: Set(F.normalize(p.x, dim=-1), p.y) for n, p in episode._asdict().items()})
    assert (answers == NearestNeighbour(4)(unit).argmax(-1)).all()


def test_cosines_of_a_zero_vector_are_zero():
    a = torch.zeros(1, 3, requires_grad=True)
    value = cosines(a, torch.ones(2, 3))
    value.sum().backward()
    assert (value == 0).all() and a.grad.isfinite().all()


def test_the_scale_is_a_meta_parameter_only_if_it_is_learned():
    fixed, learned = (MatchingNetwork(nn.Identity(), 3, scale=4.0, learn_scale=learn) for learn in (False, True))
    assert not list(fixed.parameters())
    assert [p.exp().item() for p in learned.parameters()] == pytest.approx([4.0])


# full context


def test_support_embeddings_are_those_of_a_bidirectional_lstm():
    context, embeddings = FullContext(4).double(), doubles(6, 4)
    lstm = nn.LSTM(4, 4, bidirectional=True).double()
    for suffix, cell in (("_l0", context.forwards), ("_l0_reverse", context.backwards)):
        for name, value in cell.named_parameters():
            getattr(lstm, name + suffix).data.copy_(value.data)
    there, back = lstm(embeddings)[0].chunk(2, dim=-1)
    torch.testing.assert_close(context.support(embeddings), embeddings + there + back)


def test_query_embeddings_are_the_attention_lstm_of_the_appendix():
    """Equations 3 to 6 as printed: [hidden, read] is the hidden state of an LSTM whose weights are ours, rearranged."""
    context, f, g = FullContext(4, steps=3).double(), doubles(2, 4), doubles(5, 4)
    cell = context.reader
    w_f, w_r = cell.weight_ih.chunk(2, dim=1)
    w_state = torch.cat([cell.weight_hh, w_r], dim=1)
    for row, answer in zip(f, context.query(f, g), strict=True):
        h, c = torch.zeros(2, 4, dtype=torch.float64)
        for _ in range(3):
            a = torch.stack([h @ g_i for g_i in g]).softmax(0)
            r = sum(a_i * g_i for a_i, g_i in zip(a, g, strict=True))
            gates = w_f @ row + cell.bias_ih + w_state @ torch.cat([h, r]) + cell.bias_hh
            i, forget, value, o = gates.chunk(4)
            c = forget.sigmoid() * c + i.sigmoid() * value.tanh()
            h = o.sigmoid() * c.tanh() + row
        torch.testing.assert_close(answer, h)


def test_context_lets_other_classes_change_the_embedding_of_an_example():
    context, embeddings = FullContext(4).double(), doubles(3, 4)
    other = torch.cat([embeddings[:2], doubles(1, 4)])
    assert not torch.allclose(context.support(embeddings)[0], context.support(other)[0])


def test_only_full_context_depends_on_the_order_of_the_support_set():
    episode = classification()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = episode._replace(support=Set(*(part[:, order] for part in episode.support)))
    for name, learner in learners().items():
        agree = torch.allclose(learner(shuffled), learner(episode), rtol=1e-10, atol=1e-12)
        assert agree == (name != "full context"), name


# all of them


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_tasks_is_a_loop_over_tasks(name):
    episode, learner = classification(), learners()[name]
    loss, prediction = learner.loss_and_prediction(episode)
    losses = []
    for task, part in enumerate(episode.split(1)):
        support, query = one(part)
        torch.testing.assert_close(learner.predict(learner.adapt(support), query.x), prediction[task])
        losses.append(learner.meta_loss(part))
    torch.testing.assert_close(loss, torch.stack(losses).mean())


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_that_of_finite_differences(name):
    """Of the meta-loss, along a random direction of all parameters."""
    episode, learner = classification(), learners()[name]
    finite, exact = slopes(learner, episode, step=1e-6)
    torch.testing.assert_close(finite, exact, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_more_ways_than_the_episode_has_changes_nothing(name):
    """A class without support is never predicted, and neither losses nor gradients know of it."""
    episode, exact, wide = classification(), learners(3)[name], learners(10)[name]
    wide.load_state_dict(exact.state_dict())
    gradients = []
    for learner in (exact, wide):
        learner.meta_loss(episode).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in learner.parameters()]))
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(wide(episode)[..., :3], exact(episode))
    assert (wide(episode)[..., 3:] == -torch.inf).all()


@pytest.mark.parametrize("name", NAMES)
def test_renaming_the_classes_renames_the_answers(name):
    episode, learner = classification(), learners()[name]
    names = torch.tensor([2, 0, 1])
    renamed = Episode(*(Set(part.x, names[part.y]) for part in episode))
    torch.testing.assert_close(learner(renamed)[..., names], learner(episode))
    torch.testing.assert_close(learner.meta_loss(renamed), learner.meta_loss(episode))


def test_training_through_conv4_lowers_the_loss():
    episode = classification(tasks=2, ways=3, shots=1, shape=(1, 16, 16), dtype=torch.float32)
    for learner in (
        SiameseNetwork(conv4(channels=4, image_size=16), 3, Verification(4)),
        MatchingNetwork(conv4(channels=4, image_size=16), 3, FullContext(4, steps=2)),
    ):
        optimizer, before = torch.optim.Adam(learner.parameters(), lr=0.01), learner.meta_loss(episode).item()
        for _ in range(5):
            optimizer.zero_grad()
            learner.meta_loss(episode).backward()
            optimizer.step()
        assert learner.meta_loss(episode).item() < before


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Contrastive(0.0), "margin must be positive and finite, got 0.0"),
        (lambda: Contrastive(float("nan")), "margin must be positive and finite, got nan"),
        (lambda: Verification(0), "features must be a positive integer, got 0"),
        (lambda: Verification(3)(torch.ones(2, 4), torch.ones(1, 4)), "have 4 features, expected 3"),
        (lambda: SiameseNetwork(nn.Identity(), 1, Contrastive()), "at least 2 ways, got 1"),
        (lambda: MatchingNetwork(nn.Identity(), 1), "at least 2 ways, got 1"),
        (lambda: MatchingNetwork(nn.Identity(), 5, scale=-1.0), "scale must be positive and finite, got -1.0"),
        (lambda: MatchingNetwork(nn.Identity(), 5, scale=float("inf")), "scale must be positive and finite, got inf"),
        (lambda: FullContext(4, steps=0), "steps must be a positive integer, got 0"),
        (lambda: FullContext(4).support(torch.ones(2, 3)), r"shape \(2, 3\), expected \(examples, 4\)"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
