"""Transfer: new heads, frozen layers, and the formulas of fine-tuning linear models against descent and simulation."""

import pytest
import torch
from torch import nn

from metabook.basics.small_data import train
from metabook.basics.transfer_learning import (
    l2_sp,
    last_layers,
    nearest_fit,
    risk_of_start,
    share_of_start,
    with_new_head,
)
from metabook.networks import mlp


def doubles(*shape):
    return torch.randn(*shape, dtype=torch.float64)


# heads and layers


def test_a_new_head_leaves_the_features_and_the_old_network_alone():
    torch.manual_seed(0)
    network, x = mlp([4, 5, 6, 3]), torch.randn(7, 4)
    before = network(x)
    state = torch.random.get_rng_state()
    new = with_new_head(network, 2, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert new(x).shape == (7, 2)
    assert torch.equal(new[:-1](x), network[:-1](x)) and torch.equal(network(x), before)
    new[0].weight.data.zero_()
    assert torch.equal(network(x), before)
    assert torch.equal(with_new_head(network, 2, seed=1)[-1].weight, new[-1].weight)
    assert not torch.equal(with_new_head(network, 2, seed=2)[-1].weight, new[-1].weight)


def test_last_layers_are_named_as_the_network_names_them():
    network = mlp([4, 5, 6, 3])
    names = [name for name, _ in network.named_parameters()]
    assert last_layers(network, 1) == set(names[-2:])
    assert last_layers(network, 3) == set(names)
    with pytest.raises(ValueError, match="3 linear layers, so its last 4"):
        last_layers(network, 4)
    with pytest.raises(ValueError, match="linear layer, got ReLU"):
        with_new_head(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), 2, seed=0)


def test_frozen_weights_stay_and_the_others_are_trained_as_alone():
    torch.manual_seed(0)
    networks = [mlp([3, 4, 2]) for _ in range(2)]
    x, y = torch.randn(2, 9, 3), torch.randint(2, (2, 9))
    ensemble = train(networks, x, y, steps=5, lr=0.01, trained=last_layers(networks[0], 1))
    for run, network in enumerate(networks):
        adam = torch.optim.Adam(network[-1].parameters(), lr=0.01)
        for _ in range(5):
            adam.zero_grad()
            nn.functional.cross_entropy(network(x[run]), y[run]).backward()
            adam.step()
        for name, weight in network.named_parameters():
            torch.testing.assert_close(ensemble.weights[name][run], weight.detach(), rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="no weight is called"):
        train(networks, x, y, steps=1, trained={"9.weight"})


# linear models


def test_descent_keeps_the_stated_share_of_its_start():
    x, y, w = doubles(20, 6), doubles(20), doubles(6)
    hessian = x.T @ x / 20
    values, vectors = torch.linalg.eigh(hessian)
    lr, best = 0.5 / values.max().item(), torch.linalg.solve(hessian, x.T @ y / 20)
    start = w.clone()
    for _ in range(30):
        w = w - lr * x.T @ (x @ w - y) / 20
    kept = share_of_start(values, lr, 30)
    torch.testing.assert_close(vectors.T @ (w - best), kept * (vectors.T @ (start - best)))
    with pytest.raises(ValueError, match="the rate must be positive and below"):
        share_of_start(values, 2.1 / values.max().item(), 3)


def test_l2_sp_is_the_minimum_and_keeps_its_own_share():
    x, y, start = doubles(15, 4), doubles(15), doubles(4)
    w = l2_sp(x, y, start, 0.3).requires_grad_()
    loss = (y - x @ w).square().mean() / 2 + 0.3 * (w - start).square().sum() / 2
    torch.testing.assert_close(torch.autograd.grad(loss, w)[0], torch.zeros(4).double())
    hessian = x.T @ x / 15
    values, vectors = torch.linalg.eigh(hessian)
    best = torch.linalg.solve(hessian, x.T @ y / 15)
    kept = vectors.T @ (w.detach() - best) / (vectors.T @ (start - best))
    torch.testing.assert_close(kept, 0.3 / (values + 0.3))


def test_l2_sp_in_batches_and_in_its_limits():
    x, y, start = doubles(3, 5, 8), doubles(3, 5), doubles(8)
    together = l2_sp(x, y, start, 0.1)
    for task in range(3):
        torch.testing.assert_close(together[task], l2_sp(x[task], y[task], start, 0.1))
    torch.testing.assert_close(l2_sp(x, y, start, 1e9), start.expand(3, 8), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(l2_sp(x, y, start, 1e-9), nearest_fit(x, y, start), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="strength must be positive"):
        l2_sp(x, y, start, 0.0)


def test_the_nearest_fit_fits_and_moves_only_where_the_examples_look():
    x, y, start = doubles(5, 8), doubles(5), doubles(8)
    w = nearest_fit(x, y, start)
    torch.testing.assert_close(x @ w, y)
    null = torch.linalg.svd(x).Vh[5:]
    torch.testing.assert_close(null @ w, null @ start)


@pytest.mark.parametrize(("n", "distance", "noise"), [(5, 1.0, 0.0), (8, 2.0, 0.5), (40, 1.5, 0.5)])
def test_the_risk_of_a_start_is_what_a_simulation_finds(n, distance, noise):
    torch.manual_seed(0)
    d, runs = 16, 4000
    truth, start = torch.zeros(d).double(), torch.zeros(d).double()
    start[0] = distance
    x = doubles(runs, n, d)
    y = (x @ truth) + noise * doubles(runs, n)
    risk = (nearest_fit(x, y, start) - truth).square().sum(-1)
    error = risk.std() / runs**0.5
    assert abs(risk.mean() - risk_of_start(n, d, distance, noise)) < 4 * error


def test_the_risk_is_infinite_where_examples_and_inputs_are_as_many():
    assert risk_of_start(16, 16, 1.0, 0.1) == float("inf")
    assert risk_of_start(15, 16, 1.0, 0.0) == pytest.approx(1 / 16)
    with pytest.raises(ValueError, match="n must be a positive integer"):
        risk_of_start(0, 4, 1.0, 0.1)
