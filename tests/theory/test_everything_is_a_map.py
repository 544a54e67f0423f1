"""What learners have in common: symmetries against their definitions, sets from sums, predictions as expansions."""

import itertools

import pytest
import torch
from torch import nn

from metabook import MAML, Episode, PrototypicalNetwork, Set, evaluate
from metabook.metric.closed_form_heads import R2D2
from metabook.networks import mlp
from metabook.theory.everything_is_a_map import (
    HiddenClasses,
    SequentialDescent,
    equivariance_gap,
    equivariant_part,
    label_weights,
    permutation_gap,
    power_sums,
    set_from_power_sums,
    state_size,
)


def doubles(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def episode(**counts):
    tasks = HiddenClasses(**{"features": 6, "signal": 2, "ways": 4, "shots": 2, "queries": 3} | counts)
    return tasks.sample(3, generator()).to(torch.float64)


# tasks


def test_classes_have_the_stated_covariances():
    tasks = HiddenClasses(features=4, signal=1, ways=2, shots=400, queries=1)
    x = tasks.sample(200, generator()).support.x.unflatten(1, (2, 400))
    within = (x - x.mean(2, keepdim=True)).flatten(0, 2)
    torch.testing.assert_close(within.T @ within / len(within), tasks.oracle.within, rtol=0.05, atol=0.05)
    means = HiddenClasses(features=4, signal=1, ways=20, shots=50, queries=1).sample(400, generator(1)).support.x
    centres = means.unflatten(1, (20, 50)).mean(2).flatten(0, 1)
    torch.testing.assert_close(centres.T @ centres / len(centres), tasks.oracle.between, rtol=0.1, atol=0.15)


def test_the_oracle_is_better_than_the_nearest_mean():
    tasks = HiddenClasses()
    best, nearest = (evaluate(m, tasks, n=100) for m in (tasks.oracle, PrototypicalNetwork(nn.Identity(), 5)))
    assert best.mean - best.ci95 > nearest.mean + nearest.ci95
    with pytest.raises(ValueError, match="cannot carry the signal"):
        HiddenClasses(features=3, signal=4)


# symmetries


@pytest.mark.parametrize("make", [
    lambda: PrototypicalNetwork(nn.Linear(6, 3), 4),
    lambda: R2D2(nn.Linear(6, 3), 4),
    lambda: MAML(mlp([6, 5, 4]), inner_lr=0.1, inner_steps=3),
])  # fmt: skip
def test_learners_of_sets_do_not_see_the_order(make):
    torch.manual_seed(0)
    assert permutation_gap(make().double(), episode(), generator()) < 1e-10


def test_a_stream_has_an_order():
    torch.manual_seed(0)
    assert permutation_gap(SequentialDescent(mlp([6, 5, 4]), inner_lr=0.5).double(), episode(), generator()) > 1e-3


def test_names_do_not_matter_where_the_heads_begin_alike():
    torch.manual_seed(0)
    names = torch.tensor([2, 0, 3, 1])
    assert equivariance_gap(PrototypicalNetwork(nn.Linear(6, 3), 4).double(), episode(), names) < 1e-10
    maml = MAML(mlp([6, 5, 4]), inner_lr=0.1, inner_steps=3).double()
    assert equivariance_gap(maml, episode(), names) > 1e-3
    nn.init.zeros_(maml.network[-1].weight)
    nn.init.zeros_(maml.network[-1].bias)
    assert equivariance_gap(maml, episode(), names) < 1e-10


def test_one_example_is_a_stream_without_an_order():
    torch.manual_seed(0)
    network, one = mlp([6, 5, 4]).double(), episode(ways=2, shots=1)
    single = Episode(Set(one.support.x[:, :1], one.support.y[:, :1]), one.query)
    ours = SequentialDescent(network, inner_lr=0.3)(single)
    torch.testing.assert_close(ours, MAML(network, inner_lr=0.3)(single))


# sizes


def test_the_size_of_a_state_counts_all_of_its_numbers():
    task = Set(doubles(8, 6), torch.arange(4).repeat(2))
    assert state_size(PrototypicalNetwork(nn.Linear(6, 3).double(), 4), task) == 4 * 3 + 4
    network = mlp([6, 5, 4]).double()
    assert state_size(MAML(network), task) == sum(p.numel() for p in network.parameters())


# equivariant matrices


def test_the_equivariant_part_is_the_mean_over_all_permutations():
    matrix, n = doubles(4, 4), 4
    turned = [matrix[list(p)][:, list(p)] for p in itertools.permutations(range(n))]
    torch.testing.assert_close(equivariant_part(matrix), torch.stack(turned).mean(0))
    torch.testing.assert_close(equivariant_part(equivariant_part(matrix)), equivariant_part(matrix))
    with pytest.raises(ValueError, match="square matrix"):
        equivariant_part(doubles(3, 2))


def test_only_the_equivariant_part_is_equivariant():
    matrix, x = doubles(5, 5), doubles(5)
    order = torch.randperm(5, generator=generator())
    assert not torch.allclose(matrix @ x[order], (matrix @ x)[order])
    part = equivariant_part(matrix)
    torch.testing.assert_close(part @ x[order], (part @ x)[order])


# sets from sums


@pytest.mark.parametrize("numbers", [[0.5], [1.0, -2.0], [0.0, 3.0, 3.5], [-1.2, -0.3, 0.4, 1.1, 1.9]])
def test_power_sums_give_the_numbers_back(numbers):
    x = torch.tensor(numbers, dtype=torch.float64)
    found = set_from_power_sums(power_sums(x))
    torch.testing.assert_close(found, x.sort().values, rtol=1e-8, atol=1e-8)


def test_fewer_sums_confuse_sets():
    a, b = (torch.tensor(t, dtype=torch.float64) for t in ([0.0, 3, 3], [1.0, 1, 4]))
    torch.testing.assert_close(power_sums(a)[:2], power_sums(b)[:2])
    assert power_sums(a)[2] != power_sums(b)[2]


# expansions


def test_the_labels_of_a_linear_learner_are_weighted():
    torch.manual_seed(0)
    start = nn.Linear(3, 1, bias=False).double()
    nn.init.zeros_(start.weight)
    learner = MAML(start, inner_lr=0.1, inner_steps=4)
    support, x = Set(doubles(5, 3), doubles(5, 1)), doubles(7, 3)
    beta = label_weights(learner, support, x)
    assert beta.shape == (7, 5)
    torch.testing.assert_close(beta @ support.y, learner.predict(learner.adapt(support), x))
    w = torch.zeros(3, 5).double()  # each column: the weights learned from one unit label
    for _ in range(4):
        w = w - 0.1 * 2 * support.x.T @ (support.x @ w - torch.eye(5).double()) / 5
    torch.testing.assert_close(beta, x @ w)
