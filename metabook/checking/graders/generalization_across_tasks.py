"""Graders of the chapter theory/generalization_across_tasks."""

from __future__ import annotations

import math
from typing import Any

import torch

from metabook.checking.compare import Hint, in_range, one_of, same_function


def _gap(q, p):
    return q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))


def _information(s):
    return 0.5 * torch.log(1 + 1 / s).sum()


WRONG = {
    "budget": [
        (20.0, "Nearly: the variance of what a task shows depends on its shots, too."),
        (1.0, "The budget is the same, but its price is paid per task."),
        (1.0 / (1.01 / 10 / (1.2 / 200)), "The other way round: which of the two is larger?"),
        (0.101, "That is the excess risk of the first one. How many times that of the second?"),
    ],
    "coins": [
        (lambda q, p: q * math.log(q / p), "Tails can come up as well."),
        (lambda q, p: _gap(p, q), "The two coins have changed places: the first one is q."),
        (lambda q, p: -_gap(q, p), "has the wrong sign"),
        (lambda q, p: _gap(q, p) / math.log(2), "That is in bits; nats are asked for."),
    ],
    "charge": [
        (lambda s: torch.log(1 + 1 / s).sum(), "There is a half before the logarithm."),
        (lambda s: 0.5 * torch.log(1 + s).sum(), "More noise should let less through."),
        (lambda s: 0.5 * torch.log(1 + 1 / s).mean(), "The coordinates add up; you take their mean."),
        (lambda s: 0.5 * torch.log2(1 + 1 / s).sum(), "That is in bits; nats are asked for."),
    ],
    "exclusive": [
        ("keep", "Then one classifier of all animals solves every task, and no support set is needed."),
        ("sort", "Sorted names are fixed names: an animal may still keep its label in most tasks."),
    ],
}


def budget(answer: Any) -> None:
    """nearly seventeen times: tasks are what a prior is learned from, and shots are not."""
    for mistake, hint in WRONG["budget"]:
        if isinstance(answer, (int, float)) and abs(answer - mistake) < 1e-3 * mistake:
            raise Hint(hint)
    again = "Put both into the formula and divide."
    in_range(answer, 16.8, 16.9, below=again, above=again)


def coins(answer: Any) -> None:
    """two outcomes, weighed by the first coin."""
    same_function(answer, _gap, [(0.2, 0.5), (0.7, 0.4), (0.9, 0.95)], wrong=WRONG["coins"])


def charge(answer: Any) -> None:
    """independent channels add up, and noise closes each of them."""
    generator = torch.Generator().manual_seed(0)
    cases = [(torch.rand(n, generator=generator) + 0.1,) for n in (3, 6)]
    same_function(answer, _information, cases, wrong=WRONG["charge"])


def exclusive(answer: Any) -> None:
    """names that mean nothing cannot be learned by heart, so the support set has to be read."""
    one_of(answer, "shuffle", dict(WRONG["exclusive"]))
