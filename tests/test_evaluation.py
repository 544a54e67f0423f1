"""Scores mean what they say: intervals cover, seeds fix episodes, comparisons are paired."""

import pytest
import torch
from examples import images
from torch import nn

from metabook import MAML, NearestNeighbour, PrototypicalNetwork, Scores, compare, evaluate
from metabook.networks import conv4, mlp
from metabook.tasks import FewShot, Sinusoids

TASKS = dict(ways=3, shots=1, queries=4)


def test_mean_and_interval_of_known_scores():
    scores = Scores(torch.tensor([0.5, 0.7, 0.9, 0.7]))
    assert scores.mean == pytest.approx(0.7)
    assert scores.ci95 == pytest.approx(1.96 * (0.08 / 3) ** 0.5 / 2)
    assert str(scores) == "70.0 ± 16.0 %"
    assert repr(scores) == "Scores(accuracy 70.0 ± 16.0 %, 4 tasks)"


def test_interval_covers_the_truth_95_percent_of_the_time():
    """2,000 simulated evaluations of 200 tasks whose true accuracies differ (Beta) and have 15 queries each."""
    generator = torch.Generator().manual_seed(0)
    ability = torch.rand(2000, 200, 3, generator=generator).amax(-1)  # Beta(3, 1), mean 3/4
    answers = torch.rand(2000, 200, 15, generator=generator) < ability[..., None]
    covered = [abs((s := Scores(row)).mean - 0.75) <= s.ci95 for row in answers.double().mean(-1)]
    assert sum(covered) / 2000 == pytest.approx(0.95, abs=0.015)


def test_same_seed_same_scores(device):
    tasks = FewShot(images(), **TASKS, device=device)
    learner = NearestNeighbour(3)
    a, b, c = (evaluate(learner, tasks, n=40, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(a.per_task, b.per_task) and not torch.equal(a.per_task, c.per_task)
    assert a.per_task.shape == (40,) and a.per_task.device.type == "cpu"


def test_protocol_is_stated():
    tasks = FewShot(images(), **TASKS)
    assert "3-way 1-shot" in (protocol := evaluate(NearestNeighbour(3), tasks, n=7).protocol)
    assert "7 tasks, seed 0" in protocol and "each query on its own" in protocol
    big = FewShot(images(size=16), **TASKS)
    transductive = PrototypicalNetwork(conv4(channels=2, norm="batch", image_size=16), 3)
    assert "transductive" in evaluate(transductive, big, n=2).protocol


def test_metric_follows_the_targets():
    assert evaluate(NearestNeighbour(3), FewShot(images(), **TASKS), n=3).metric == "accuracy"
    scores = evaluate(MAML(mlp([1, 4, 1])), Sinusoids(), n=3)
    assert scores.metric == "mse" and str(scores).count("%") == 0


def test_mse_is_the_mean_over_queries():
    """The zero function: the score of each task is its mean squared target."""
    network = nn.Linear(1, 1)
    nn.init.zeros_(network.weight), nn.init.zeros_(network.bias)
    tasks = Sinusoids(queries=6)
    scores = evaluate(MAML(network, inner_steps=0), tasks, n=30, batch=30, seed=5)
    episode = tasks.sample(30, tasks.generator(5))
    torch.testing.assert_close(scores.per_task, episode.query.y.square().mean((1, 2)))


def test_mode_of_the_learner_is_restored():
    learner = MAML(nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.5)), inner_steps=0).train()
    first = evaluate(learner, Sinusoids(), n=5)
    assert learner.training
    assert torch.equal(first.per_task, evaluate(learner, Sinusoids(), n=5).per_task)  # no dropout while scoring


def test_comparison_is_paired():
    """Equal learners differ by exactly zero; other learners by the task-wise difference of their scores."""
    tasks = FewShot(images(), **TASKS)
    same = compare(NearestNeighbour(3), NearestNeighbour(5), tasks, n=60)
    assert same.difference.per_task.abs().max() == 0
    flat = PrototypicalNetwork(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), 3)
    other = compare(NearestNeighbour(3), flat, tasks, n=60, seed=4)
    alone = evaluate(flat, tasks, n=60, seed=4)
    assert torch.equal(other.difference.per_task, other.a.per_task - alone.per_task)
    assert other.difference.ci95 > 0 and "paired" in other.difference.protocol


@pytest.mark.parametrize("options", [{"n": 0}, {"batch": 0}])
def test_counts_must_be_positive(options):
    with pytest.raises(ValueError, match="must be a positive integer, got 0"):
        evaluate(NearestNeighbour(3), FewShot(images(), **TASKS), **options)
