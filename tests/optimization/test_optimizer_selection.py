"""Optimiser selection: the races are ordinary training, the table is whole, the choice is what it says."""

import math

import pytest
import torch
import torch.nn.functional as F
from examples import table
from torch import nn

from metabook.optimization.optimizer_selection import (
    BUDGETS,
    DIRECTIONS,
    RATES,
    Race,
    configurations,
    gap_closed,
    leave_one_out,
    load_runs,
    portfolio,
    race,
    select,
    single_best,
)
from metabook.tasks.tables import relative, split

TORCH = {
    "SGD": lambda w, lr: torch.optim.SGD(w, lr=lr),
    "momentum": lambda w, lr: torch.optim.SGD(w, lr=lr, momentum=0.9),
    "RMSProp": lambda w, lr: torch.optim.RMSprop(w, lr=lr),
    "Adam": lambda w, lr: torch.optim.Adam(w, lr=lr),
}


def known(tasks=40, algorithms=3, features=2, seed=0):
    """Tasks whose losses depend on their features, with noise."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(tasks, features, generator=generator, dtype=torch.float64)
    effect = torch.randn(features, algorithms, generator=generator, dtype=torch.float64)
    return X, X @ effect + 0.3 * torch.randn(tasks, algorithms, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", DIRECTIONS)
def test_a_direction_is_the_update_of_torch(name):
    w = torch.randn(5, dtype=torch.float64).requires_grad_()
    ours, m, v = w.detach().clone(), torch.zeros(5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    optimizer = TORCH[name]([w], 0.1)
    for t in range(1, 8):
        w.grad = torch.randn(5, dtype=torch.float64)
        ours -= 0.1 * DIRECTIONS[name](w.grad.clone(), m, v, t)
        optimizer.step()
    torch.testing.assert_close(ours, w.detach(), rtol=1e-12, atol=1e-14)


def test_a_race_is_ordinary_training_of_each_network(device):
    """Every optimiser and seed against nn.Sequential and torch.optim, on the same start and minibatches."""
    splits = split(*table(device=device), seeds=2)
    rates = {"SGD": (0.5,), "momentum": (0.1,), "RMSProp": (0.01,), "Adam": (0.03,)}
    run = race(splits, rates=rates, budgets=(1, 6), hidden=5, batch=8)
    assert run.test.shape == (2, 4, 2)
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        shapes = [((4, 5), 4), ((5,), 4), ((5, 3), 5), ((3,), 5)]
        flat = [fan**-0.5 * (2 * torch.rand(math.prod(s), generator=generator) - 1) for s, fan in shapes]
        minibatches = torch.randint(len(splits.train_y[seed]), (6, 8), generator=generator)
        for c, (name, rate) in enumerate(configurations(rates)):
            network = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
            with torch.no_grad():
                for p, value, (shape, _) in zip(network.parameters(), flat, shapes, strict=True):
                    p.copy_(value.view(shape).mT if len(shape) == 2 else value)
            network.to(device)
            optimizer = TORCH[name](network.parameters(), rate)
            for rows in minibatches.to(device):
                optimizer.zero_grad()
                F.cross_entropy(network(splits.train_x[seed, rows]), splits.train_y[seed, rows]).backward()
                optimizer.step()
            prediction = network(splits.test_x[seed])
            loss = F.cross_entropy(prediction, splits.test_y[seed]).item()
            error = (prediction.argmax(-1) != splits.test_y[seed]).double().mean().item()
            assert run.test[1, c, seed].item() == pytest.approx(loss, rel=1e-6)
            assert run.error[1, c, seed].item() == pytest.approx(error)


def test_a_network_that_diverged_knows_nothing():
    splits = split(*table(), seeds=1)
    run = race(splits, rates={"SGD": (1e200,)}, budgets=(20,), hidden=3)
    assert run.test.item() == pytest.approx(math.log(3)) and relative(run.test, splits).item() == 1


def test_the_single_best_of_a_task_is_chosen_without_it():
    loss = torch.tensor([[0.0, 1.0], [0.5, 0.4], [0.5, 0.4]])
    assert single_best(loss).tolist() == [1, 0, 0]


def test_a_portfolio_takes_what_complements_it():
    """The second member is not the second best, but the one that helps where the first is bad."""
    loss = torch.tensor([[0.1, 0.2, 0.9], [0.1, 0.2, 0.9], [0.7, 0.8, 0.1]])
    assert portfolio(loss, 1).tolist() == [0]
    assert portfolio(loss, 2).tolist() == [0, 2]
    assert sorted(portfolio(loss, 3).tolist()) == [0, 1, 2]
    with pytest.raises(ValueError, match="size must lie in 1..3, the number of algorithms, got 4"):
        portfolio(loss, 4)


def test_a_selector_of_one_algorithm_takes_the_single_best():
    X, loss = known()
    assert torch.equal(leave_one_out(X, loss, size=1), single_best(loss))


def test_the_losses_of_a_task_do_not_change_the_choice_for_it():
    X, loss = known()
    other = loss.clone()
    other[4] = other[4].flip(0) - 5
    for size in (None, 2):
        assert leave_one_out(X, loss, size=size)[4] == leave_one_out(X, other, size=size)[4]


def test_a_choice_is_ridge_regression_with_the_penalty_that_chooses_best():
    """Against normal equations that are solved anew for every left-out task."""
    X, loss = known()
    new = torch.randn(7, 2, dtype=torch.float64)
    mean, scale = X.mean(0), X.std(0)

    def fit(kept, penalty):
        A = torch.cat([(X[kept] - mean) / scale, torch.ones(len(kept), 1).double()], 1)
        weight = torch.diag(torch.tensor([penalty, penalty, 0.0]).double())
        return torch.linalg.solve(A.mT @ A + weight, A.mT @ loss[kept])

    def predict(coefficients, x):
        return torch.cat([(x - mean) / scale, torch.ones(len(x), 1).double()], 1) @ coefficients

    everyone, achieved = torch.arange(40), []
    for penalty in (1.0, 300.0):
        chosen = [predict(fit(everyone[everyone != i], penalty), X[i : i + 1]).argmin() for i in range(40)]
        achieved.append(loss[everyone, torch.stack(chosen)].mean())
    best = (1.0, 300.0)[achieved[1] < achieved[0]]
    expected = predict(fit(everyone, best), new).argmin(-1)
    assert select(X, loss, new, penalties=(1.0, 300.0)).tolist() == expected.tolist()


def test_a_trial_is_where_the_prediction_starts():
    """Features that say nothing: the choice is the least trial loss plus the mean progress of each algorithm."""
    _, loss = known(tasks=30)
    trial = loss + torch.tensor([0.3, 0.0, -0.2]).double() + 0.01 * torch.randn(30, 3, dtype=torch.float64)
    nothing = torch.zeros(30, 2, dtype=torch.float64)
    expected = (trial[:5] + (loss - trial).mean(0)).argmin(-1)
    chosen = select(nothing, loss, nothing[:5], trial=trial, new_trial=trial[:5])
    assert chosen.tolist() == expected.tolist() != trial[:5].argmin(-1).tolist()
    assert (leave_one_out(nothing, loss, trial=trial) == loss.argmin(-1)).double().mean() > 0.9


def test_what_all_algorithms_of_a_task_share_does_not_change_the_choice():
    """So predicting losses and predicting regrets choose the same."""
    X, loss = known(seed=1)
    regret = loss - loss.amin(-1, keepdim=True)
    assert torch.equal(leave_one_out(X, loss), leave_one_out(X, regret))


def test_a_rule_that_is_there_is_found_on_tasks_left_out():
    X, _ = known(tasks=60)
    loss = torch.stack([0.5 + 0.1 * X[:, 0], 0.5 - 0.1 * X[:, 0]], 1)
    chosen = loss.gather(1, leave_one_out(X, loss)[:, None])[:, 0]
    single = loss.gather(1, single_best(loss)[:, None])[:, 0]
    share = gap_closed(chosen, single, loss.amin(-1))
    assert share.value > 0.95 and 0.9 < share.lo <= share.value <= share.hi <= 1


def test_a_rule_that_is_not_there_is_not_found():
    shares = []
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        X, loss = torch.randn(60, 3, generator=generator), torch.rand(60, 4, generator=generator)
        chosen = loss.gather(1, leave_one_out(X, loss)[:, None])[:, 0]
        single = loss.gather(1, single_best(loss)[:, None])[:, 0]
        shares.append(gap_closed(chosen, single, loss.amin(-1)).value)
    assert abs(sum(shares) / 5) < 0.15


def test_the_share_is_zero_at_the_single_and_one_at_the_virtual_best():
    _, loss = known()
    single, virtual = loss[:, 0], loss.amin(-1)
    assert gap_closed(single, single, virtual) == (0, 0, 0)
    assert gap_closed(virtual, single, virtual) == pytest.approx((1, 1, 1))
    half = gap_closed((single + virtual) / 2, single, virtual)
    assert half == pytest.approx((0.5, 0.5, 0.5))


def test_the_committed_table_is_whole():
    runs = load_runs()
    assert len(runs.tasks) == len(set(runs.tasks)) == 70 and runs.tasks[-1] == "digits"
    shape = (70, 2, len(BUDGETS))
    assert runs.features.shape == (70, 2, len(runs.feature_names)) and runs.features.isfinite().all()
    for part, last in [
        (runs.validation, 28), (runs.test, 28), (runs.error, 28), (runs.tuned, 4), (runs.tuned_error, 4)
    ]:  # fmt: skip
        assert part.shape == (*shape, last) and part.min() >= 0 and part.max() <= 1
    assert len(configurations()) == 28
    fewer = runs.without("digits", "optdigits")
    assert len(fewer.tasks) == 68 and torch.equal(fewer.test[0], runs.test[0])


def test_the_numbers_of_the_table_stand_with_their_configurations():
    """A cell of the csv, found by its words, is where `configurations` says."""
    import csv

    from metabook.optimization import optimizer_selection

    path = optimizer_selection.__file__.replace(".py", ".csv")
    with open(path, encoding="utf-8") as file:
        rows = {(r["task"], r["fold"], r["optimizer"], r["rate"]): r for r in csv.DictReader(file)}
    runs = load_runs()
    task, c = runs.tasks.index("iris"), configurations().index(("RMSProp", 0.003))
    assert float(rows["iris", "1", "RMSProp", "0.003"]["test_100"]) == runs.test[task, 1, 2, c]
    tuned = list(RATES).index("Adam")
    assert float(rows["iris", "0", "Adam", "tuned"]["error_300"]) == runs.tuned_error[task, 0, 3, tuned]


def test_what_does_not_fit_is_refused():
    x, y = table()
    with pytest.raises(ValueError, match="no optimiser is called .'Adan'.; there are .'Adam'"):
        race(split(x, y), rates={"Adan": (0.1,)})
    for budgets in ((), (0, 3), (5, 5)):
        with pytest.raises(ValueError, match="budgets must increase from 1 or more"):
            race(split(x, y), budgets=budgets)
    with pytest.raises(ValueError, match=r"do not fit each other: .\(3, 2\), \(4, 5\), \(1, 2\)"):
        select(torch.zeros(3, 2), torch.zeros(4, 5), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="three tasks or more are needed"):
        select(torch.zeros(2, 2), torch.zeros(2, 5), torch.zeros(1, 2))


def test_a_race_has_one_entry_for_every_budget_configuration_and_seed():
    run = race(split(*table(), seeds=3), budgets=(1, 2), hidden=2, batch=4)
    assert isinstance(run, Race) and all(part.shape == (2, 28, 3) for part in run)
