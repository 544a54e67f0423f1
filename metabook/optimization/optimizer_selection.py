"""Which optimiser for which task?  O = f_O(phi, D): a table of what each achieved on many tasks, and a choice by it.

The problem is J. R. Rice's, "The Algorithm Selection Problem", Advances in Computers 15 (1976) 65-118: features of a
task, a set of algorithms, their performance, and a map from features to algorithms.  Here a task is a table with
classes, and an algorithm is an optimiser with its rate.  `race` makes one row of the performance table: one small
network, trained by every optimiser at every rate from the same starts on the same minibatches, all at once.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from metabook.tasks.tables import Splits

RATES: dict[str, tuple[float, ...]] = {
    "SGD": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
    "momentum": (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
    "RMSProp": (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1),
    "Adam": (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
}
BUDGETS = (10, 30, 100, 300)  # steps after which the networks are judged


def _sgd(g: Tensor, m: Tensor, v: Tensor, t: int) -> Tensor:
    return g


def _momentum(g: Tensor, m: Tensor, v: Tensor, t: int) -> Tensor:
    return m.mul_(0.9).add_(g).clone()


def _rmsprop(g: Tensor, m: Tensor, v: Tensor, t: int) -> Tensor:
    v.lerp_(g * g, 0.01)
    return g / (v.sqrt() + 1e-8)


def _adam(g: Tensor, m: Tensor, v: Tensor, t: int) -> Tensor:
    m.lerp_(g, 0.1)
    v.lerp_(g * g, 0.001)
    return m / (1 - 0.9**t) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)


# From the gradient g of step t (1, 2, ...) to what is subtracted, times the rate; m and v are changed in place and
# start at zero.  PyTorch's conventions and defaults: momentum 0.9 without damping, RMSProp with alpha = 0.99.
DIRECTIONS: dict[str, Callable[[Tensor, Tensor, Tensor, int], Tensor]] = {
    "SGD": _sgd,
    "momentum": _momentum,
    "RMSProp": _rmsprop,
    "Adam": _adam,
}


class Race(NamedTuple):
    """What each configuration achieved: `(budgets, configurations, seeds)` each.

    Attributes:
        validation: mean cross-entropy on the validation rows, in nats.
        test: the same on the test rows.
        error: share of test rows that are misclassified.
    """

    validation: Tensor
    test: Tensor
    error: Tensor


def configurations(rates: Mapping[str, Sequence[float]] = RATES) -> list[tuple[str, float]]:
    """Every optimiser with each of its rates, in the order of the table."""
    return [(name, rate) for name, grid in rates.items() for rate in grid]


def race(
    splits: Splits,
    *,
    rates: Mapping[str, Sequence[float]] = RATES,
    budgets: Sequence[int] = BUDGETS,
    hidden: int = 32,
    batch: int = 32,
) -> Race:
    """Train one hidden layer by every configuration, from the same starts and on the same minibatches.

    Every run is a row of one tensor `(configurations, seeds, weights)`, so a step of all is one batched product.
    Starts are PyTorch's for linear layers; minibatches are drawn with replacement.  The logits of a run that diverged
    to nan or infinity count as zeros: it knows nothing.

    Args:
        splits: the data; seed s trains on split s.
        rates: the rates of each optimiser, by a name in `DIRECTIONS`.
        budgets: increasing numbers of steps after which to judge.
        hidden: units of the hidden layer.
        batch: rows of a minibatch.

    Raises:
        ValueError: an unknown optimiser, or budgets that do not increase from 1.
    """
    if unknown := set(rates) - set(DIRECTIONS):
        raise ValueError(f"no optimiser is called {sorted(unknown)}; there are {sorted(DIRECTIONS)}")
    if not budgets or budgets[0] < 1 or any(b <= a for a, b in zip(budgets, budgets[1:], strict=False)):
        raise ValueError(f"budgets must increase from 1 or more, got {tuple(budgets)}")
    x, y = splits.train_x, splits.train_y
    seeds, rows, columns = x.shape
    generators = [torch.Generator().manual_seed(s) for s in range(seeds)]
    sizes = [columns * hidden, hidden, hidden * splits.classes, splits.classes]
    bounds = [(max(columns, 1) if i < 2 else hidden) ** -0.5 for i in range(4)]
    start = torch.stack(
        [
            torch.cat([b * (2 * torch.rand(n, generator=g) - 1) for n, b in zip(sizes, bounds, strict=True)])
            for g in generators
        ]
    )
    draws = [torch.randint(rows, (budgets[-1], batch), generator=g) for g in generators]
    minibatches = torch.stack(draws, 1).to(x.device)  # (steps, seeds, batch)
    length = torch.tensor([rate for _, rate in configurations(rates)], dtype=x.dtype, device=x.device)
    w = start.to(x).expand(len(length), -1, -1).clone()  # (configurations, seeds, weights)
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    own = torch.arange(seeds, device=x.device)[:, None]

    def logits(w: Tensor, x: Tensor) -> Tensor:
        """`(configurations, seeds, rows, classes)`."""
        W1, b1, W2, b2 = w.split(sizes, -1)
        h = torch.relu(x @ W1.unflatten(-1, (columns, hidden)) + b1[:, :, None])
        return h @ W2.unflatten(-1, (hidden, splits.classes)) + b2[:, :, None]

    def losses(prediction: Tensor, y: Tensor) -> Tensor:
        y = y.expand(len(prediction), -1, -1)
        return F.cross_entropy(prediction.flatten(0, 2), y.flatten(), reduction="none").view(y.shape)

    judged: list[list[Tensor]] = []
    for t in range(1, budgets[-1] + 1):
        rows_now = minibatches[t - 1]
        leaf = w.requires_grad_()
        total = losses(logits(leaf, x[own, rows_now]), y[own, rows_now]).sum() / batch
        (gradient,) = torch.autograd.grad(total, leaf)  # of each run, its own mean loss
        w = w.detach()
        place = 0
        for name, grid in rates.items():
            part = slice(place, place := place + len(grid))
            w[part] -= length[part, None, None] * DIRECTIONS[name](gradient[part], m[part], v[part], t)
        if t in budgets:
            validation = logits(w, splits.validation_x).nan_to_num(0, 0, 0)
            test = logits(w, splits.test_x).nan_to_num(0, 0, 0)
            judged.append(
                [
                    losses(validation, splits.validation_y).mean(-1),
                    losses(test, splits.test_y).mean(-1),
                    (test.argmax(-1) != splits.test_y).to(x.dtype).mean(-1),
                ]
            )
    return Race(*(torch.stack(part).cpu() for part in zip(*judged, strict=True)))


class Runs(NamedTuple):
    """The performance table: what was measured on every task, each part with the same tasks and folds first.

    Losses are relative: cross-entropy over label entropy, at most 1 for each seed, then the mean over the seeds.

    Attributes:
        tasks: names.
        feature_names: names of the meta-features.
        features: `(tasks, folds, features)`.
        validation: loss on the validation rows, `(tasks, folds, budgets, configurations)`.
        test: loss on the test rows, the same shape.
        error: test error, the same shape.
        tuned: test loss where each seed takes the rate that is best on its own validation rows,
            `(tasks, folds, budgets, optimisers)`.
        tuned_error: its test error, the same shape.
    """

    tasks: tuple[str, ...]
    feature_names: tuple[str, ...]
    features: Tensor
    validation: Tensor
    test: Tensor
    error: Tensor
    tuned: Tensor
    tuned_error: Tensor

    def without(self, *names: str) -> Runs:
        """The table without some tasks."""
        kept = torch.tensor([task not in names for task in self.tasks])
        tasks = tuple(task for task in self.tasks if task not in names)
        return Runs(tasks, self.feature_names, *(part[kept] for part in self[2:]))


def load_runs() -> Runs:
    """The table of `experiments/optimizer_selection.py`, which comes with the package; no download."""
    here = Path(__file__)
    about = json.loads(here.with_suffix(".json").read_text(encoding="utf-8"))
    names, tasks = about["features"], about["tasks"]
    shape = (len(tasks), about["folds"])
    with here.with_suffix(".csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))

    def part(measure: str, tuned: bool) -> Tensor:
        columns = [f"{measure}_{budget}" for budget in BUDGETS]
        values = [[float(row[c]) for c in columns] for row in rows if (row["rate"] == "tuned") == tuned]
        return torch.tensor(values, dtype=torch.float64).unflatten(0, (*shape, -1)).mT

    return Runs(
        tasks=tuple(tasks),
        feature_names=tuple(names),
        features=torch.tensor(list(tasks.values()), dtype=torch.float64),
        validation=part("validation", tuned=False),
        test=part("test", tuned=False),
        error=part("error", tuned=False),
        tuned=part("test", tuned=True),
        tuned_error=part("error", tuned=True),
    )


def single_best(loss: Tensor) -> Tensor:
    """For each task the algorithm with the least mean loss on all *other* tasks: `(tasks, algorithms) -> (tasks,)`."""
    return (loss.sum(0) - loss).argmin(-1)


def portfolio(loss: Tensor, size: int) -> Tensor:
    """A few algorithms that complement each other: `(tasks, algorithms) -> (size,)` indices, the single best first.

    Greedy: each next one is the one that lowers the mean over tasks of the least loss in the portfolio the most.

    Raises:
        ValueError: a size below 1 or above the number of algorithms.
    """
    if not 1 <= size <= loss.shape[1]:
        raise ValueError(f"size must lie in 1..{loss.shape[1]}, the number of algorithms, got {size}")
    least, members = torch.full_like(loss[:, 0], torch.inf), []
    for _ in range(size):
        means = torch.minimum(least[:, None], loss).mean(0)
        means[members] = torch.inf
        members.append(int(means.argmin()))
        least = torch.minimum(least, loss[:, members[-1]])
    return torch.tensor(members, device=loss.device)


PENALTIES = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)


def select(
    features: Tensor,
    loss: Tensor,
    new: Tensor,
    *,
    trial: Tensor | None = None,
    new_trial: Tensor | None = None,
    penalties: Sequence[float] = PENALTIES,
) -> Tensor:
    """Choose an algorithm for each new task: f_O(phi, D), where phi are the coefficients of a ridge regression.

    The regression predicts the loss of every algorithm from the standardised features; with a trial, how far that
    loss is from what the algorithm showed in the trial.  Its penalty is the one under which its own choices, each
    task left out in turn, have the least mean loss; leaving out has a closed form.

    Args:
        features: `(tasks, features)` of the tasks whose losses are known.
        loss: `(tasks, algorithms)`.
        new: `(new tasks, features)`.
        trial: `(tasks, algorithms)`, for instance validation losses after a few steps; zero by default.
        new_trial: `(new tasks, algorithms)`, the same of the new tasks.
        penalties: candidates, in the unit of the sum of squares of a standardised feature.

    Returns:
        `(new tasks,)` indices of algorithms.

    Raises:
        ValueError: shapes that do not fit, or fewer than three tasks.
    """
    trial = torch.zeros_like(loss) if trial is None else trial
    new_trial = torch.zeros_like(loss[:1]) if new_trial is None else new_trial
    shapes = [tuple(part.shape) for part in (features, loss, new, trial, new_trial)]
    if len(features) != len(loss) or new.shape[1:] != features.shape[1:] or trial.shape != loss.shape:
        raise ValueError(f"features, loss, new, trial and new_trial have shapes that do not fit each other: {shapes}")
    if len(features) < 3:
        raise ValueError(f"three tasks or more are needed to learn a choice, got {len(features)}")
    mean, scale = features.mean(0), features.std(0).clamp(min=1e-12)
    X, Y = (features - mean) / scale, loss - trial
    level = Y.mean(0)
    U, s, V = torch.linalg.svd(X, full_matrices=False)
    achieved, coefficients = [], []
    for penalty in penalties:
        shrink = s.square() / (s.square() + penalty)
        fitted = level + U * shrink @ (U.mT @ (Y - level))
        leverage = (U.square() * shrink).sum(-1, keepdim=True) + 1 / len(X)
        left_out = trial + Y - (Y - fitted) / (1 - leverage)
        achieved.append(loss.gather(1, left_out.argmin(-1, keepdim=True)).mean())
        coefficients.append((V.mT * (s / (s.square() + penalty))) @ (U.mT @ (Y - level)))
    phi = coefficients[int(torch.stack(achieved).argmin())]
    return (new_trial + level + (new - mean) / scale @ phi).argmin(-1)


def leave_one_out(
    features: Tensor,
    loss: Tensor,
    own: Tensor | None = None,
    *,
    trial: Tensor | None = None,
    own_trial: Tensor | None = None,
    size: int | None = None,
) -> Tensor:
    """The choice for each task by a selector that has seen only the others: `(tasks,)` indices of algorithms.

    Args:
        features, loss, trial: as in `select`.
        own, own_trial: what the selector sees of the task that is left out; by default its `features` and `trial`.
        size: of the portfolio among which it chooses, made of the other tasks; all algorithms by default.
    """
    own = features if own is None else own
    trial = torch.zeros_like(loss) if trial is None else trial
    own_trial = trial if own_trial is None else own_trial
    chosen = []
    for i in range(len(loss)):
        others, mine = torch.arange(len(loss)) != i, slice(i, i + 1)
        members = portfolio(loss[others], loss.shape[1] if size is None else size)
        choice = select(
            features[others],
            loss[others][:, members],
            own[mine],
            trial=trial[others][:, members],
            new_trial=own_trial[mine, members],
        )
        chosen.append(members[choice])
    return torch.cat(chosen)


class Share(NamedTuple):
    """The share of a gap that was closed, with its 95 % interval over tasks."""

    value: float
    lo: float
    hi: float


def gap_closed(chosen: Tensor, single: Tensor, virtual: Tensor, resamples: int = 10_000, seed: int = 0) -> Share:
    """How much of the way from the single best to the virtual best a selector went.

    The share is (mean of single - mean of chosen) / (mean of single - mean of virtual); the interval is that of the
    bootstrap, tasks drawn with replacement, its 2.5 % and 97.5 % quantiles.

    Args:
        chosen, single, virtual: `(tasks,)` losses of the selector, of the single best, of the virtual best.
        resamples: of the bootstrap.
        seed: of its draws.
    """
    parts = torch.stack([single - chosen, single - virtual]).double()  # (2, tasks)
    draws = torch.randint(len(chosen), (resamples, len(chosen)), generator=torch.Generator().manual_seed(seed))
    gained, gap = parts[:, draws].mean(-1)
    lo, hi = (gained / gap).quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    gained, gap = parts.mean(-1).tolist()
    return Share(gained / gap, lo, hi)
