"""The baselines are what their names say."""

import pytest
import torch
from examples import classification, images, regression
from torch import nn
from torch.func import functional_call

from metabook import (
    FineTuning,
    NearestNeighbour,
    PrototypicalNetwork,
    Set,
    evaluate,
    meta_train,
    pretrain_classifier,
    task_loss,
)
from metabook.networks import mlp
from metabook.tasks import FewShot, Sinusoids


def test_fine_tuning_is_sgd_of_torch():
    """Three steps on one task equal three steps of torch.optim.SGD on a copy of the network."""
    import copy

    network, episode = mlp([2, 8, 1], nn.Tanh).double(), regression(tasks=1)
    support = Set(episode.support.x[0], episode.support.y[0])
    state = FineTuning(network, inner_lr=0.1, inner_steps=3).adapt(support)
    reference = copy.deepcopy(network)
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        task_loss(reference(support.x), support.y).backward()
        optimizer.step()
    for name, w in reference.named_parameters():
        torch.testing.assert_close(state[name], w.detach())


def test_pooled_loss_is_that_of_one_network_on_all_examples():
    network, episode = mlp([2, 8, 1], nn.Tanh).double(), regression()
    x = torch.cat([episode.support.x, episode.query.x], dim=1).reshape(-1, 2)
    y = torch.cat([episode.support.y, episode.query.y], dim=1).reshape(-1, 1)
    loss = FineTuning(network).meta_loss(episode)
    torch.testing.assert_close(loss, (network(x) - y).square().mean())
    loss.backward()
    expected = torch.autograd.grad((network(x) - y).square().mean(), network.parameters())
    for p, g in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, g)


def test_pooled_training_predicts_the_mean_wave():
    """Over all sinusoids the best single function is the mean wave: 2.55 (2/pi) (-cos x)."""
    torch.manual_seed(0)
    learner = FineTuning(mlp([1, 40, 40, 1]))
    meta_train(learner, Sinusoids(), steps=800, meta_batch=50, optimizer=torch.optim.Adam(learner.parameters(), 3e-3))
    x = torch.linspace(-4, 4, 50)[:, None]
    mean_wave = -2.55 * (2 / torch.pi) * x.cos()
    assert (learner.network(x) - mean_wave).detach().square().mean().sqrt() < 0.35


def test_nearest_neighbour_by_a_loop():
    episode = classification(tasks=4, ways=3, shots=2, shape=(1, 2, 2))
    logits = NearestNeighbour(3)(episode)
    for t in range(4):
        for q in range(6):
            d = (episode.support.x[t] - episode.query.x[t, q]).square().sum((1, 2, 3))
            nearest = torch.stack([d[episode.support.y[t] == k].min() for k in range(3)])
            torch.testing.assert_close(logits[t, q], -nearest)
            assert logits[t, q].argmax() == episode.support.y[t, d.argmin()]


def test_pretrained_encoder_separates_its_classes():
    torch.manual_seed(0)
    dataset = images(classes=6, per_class=8)
    encoder = nn.Sequential(nn.Flatten(), mlp([64, 32, 16]))
    losses = pretrain_classifier(encoder, dataset, steps=200, batch=48, lr=1e-2)
    assert losses[0] > 1.5 and losses[-1] < 0.1
    tasks = FewShot(dataset, ways=3, shots=4, queries=4)
    assert evaluate(PrototypicalNetwork(encoder, 3), tasks, n=50).mean > 0.95


def test_pretraining_repeats_itself():
    losses = []
    for _ in range(2):
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 8))
        losses.append(pretrain_classifier(encoder, images(), steps=3))
    assert losses[0] == losses[1]


def test_pretraining_follows_its_schedule():
    """At rate zero from the second minibatch on, nothing is learned after the first."""
    encoders = [nn.Sequential(nn.Flatten(), nn.Linear(64, 8)) for _ in range(2)]
    encoders[1].load_state_dict(encoders[0].state_dict())
    pretrain_classifier(encoders[0], images(), steps=1)
    pretrain_classifier(
        encoders[1], images(), steps=4, schedule=lambda adam: torch.optim.lr_scheduler.StepLR(adam, 1, gamma=0.0)
    )
    assert torch.equal(encoders[0][1].weight, encoders[1][1].weight)


def test_cosine_pretraining_separates_directions():
    """A cosine head of scale s has logits in -s..s, so its loss over k classes cannot fall below this bound."""
    torch.manual_seed(0)
    dataset = images(classes=6, per_class=8)
    encoder = nn.Sequential(nn.Flatten(), mlp([64, 32, 16]))
    losses = pretrain_classifier(encoder, dataset, steps=200, batch=48, lr=1e-2, cosine_scale=2.0)
    assert 0.08 < torch.tensor(5.0).mul(torch.tensor(-4.0).exp()).log1p() < min(losses) < 0.6 < losses[0]


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="at least 2 ways, got 1"):
        NearestNeighbour(1)
    with pytest.raises(ValueError, match="cannot be negative, got 0.01 and -1"):
        FineTuning(nn.Linear(1, 1), inner_steps=-1)
    with pytest.raises(ValueError, match="steps must be a positive integer, got 0"):
        pretrain_classifier(nn.Linear(1, 1), images(), steps=0)
    with pytest.raises(ValueError, match="cosine_scale must be positive and finite, or None, got 0"):
        pretrain_classifier(nn.Linear(1, 1), images(), steps=1, cosine_scale=0)


def test_state_is_a_dictionary_that_torch_can_call():
    network, episode = mlp([2, 8, 1]).double(), regression(tasks=1)
    state = FineTuning(network, inner_steps=0).adapt(Set(episode.support.x[0], episode.support.y[0]))
    torch.testing.assert_close(functional_call(network, state, (episode.query.x[0],)), network(episode.query.x[0]))
