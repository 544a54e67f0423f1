"""Graders of the chapter optimization/learned_optimizers."""

import math
from typing import Any

import torch
from torch import Tensor

from metabook.checking.compare import one_of, same_function


def _preprocess(gradient: Tensor, p: float) -> tuple[Tensor, Tensor]:
    large = gradient.abs() >= math.exp(-p)
    size = torch.where(large, gradient, torch.ones_like(gradient)).abs().log() / p
    return torch.where(large, size, -torch.ones_like(gradient)), torch.where(
        large, gradient.sign(), math.exp(p) * gradient
    )


def _segment_gradient(step: float, goal: float, horizon: int, truncation: int) -> float:
    """Mean over t of (how many steps of t's segment came before t, itself counted) * (theta_t - goal)."""
    return sum(((t - 1) % truncation + 1) * (t * step - goal) for t in range(1, horizon + 1)) / horizon


WRONG = {
    "preprocess": [
        (
            lambda gradient, p: (gradient.abs().log() / p, gradient.sign()),
            "What is the logarithm of a gradient that is zero? Small ones need the other case.",
        ),
        (
            lambda gradient, p: (_preprocess(gradient, p)[0] * p, _preprocess(gradient, p)[1]),
            "The logarithm is not divided by p, so it does not stay above -1.",
        ),
        (
            lambda gradient, p: (_preprocess(gradient, p)[0], gradient.sign()),
            "Below the threshold the second number jumps from -1 to 1 at zero. How does it pass through zero instead?",
        ),
    ],
    "segment": [
        (
            lambda step, goal, horizon, truncation: _segment_gradient(step, goal, horizon, horizon),
            "This is the true gradient. How many steps back does a segment see?",
        ),
        (
            lambda step, goal, horizon, truncation: _segment_gradient(step, goal, horizon, 1),
            "This sees only the step just taken, whatever the truncation.",
        ),
        (
            lambda step, goal, horizon, truncation: horizon * _segment_gradient(step, goal, horizon, truncation),
            "This is the sum over the steps; the meta-loss is their mean.",
        ),
        (
            lambda step, goal, horizon, truncation: _segment_gradient(step, goal, truncation, truncation),
            "This is the first segment alone. The others begin where the last one ended, as a constant.",
        ),
    ],
    "noise": [
        ("own", "Then the estimate says how the segment depends on phi from a given beginning. What is missing?"),
        ("all", "Does noise that comes later change this loss? What would multiplying by it add, besides variance?"),
    ],
}


def preprocess(answer: Any) -> None:
    """(log(abs(g)) / p, sign(g)) where abs(g) is at least e^-p, and (-1, e^p g) below."""
    cases = [
        (torch.tensor([1.0, -2.5, 1e-3, -1e-6, 3e-8, 0.0], dtype=torch.float64), 10.0),
        (torch.tensor([[0.5, -1e-3], [1e-2, 40.0]], dtype=torch.float64), 5.0),
    ]
    same_function(answer, _preprocess, cases, wrong=WRONG["preprocess"])


def segment(answer: Any) -> None:
    """mean over t of ((t - 1) mod K + 1)(t step - goal): a segment sees the steps since its own beginning."""
    cases = [(0.05, 1.0, 12, 3), (0.2, 1.0, 6, 6), (0.1, 2.0, 8, 1), (0.3, -1.0, 10, 5)]
    same_function(answer, _segment_gradient, cases, wrong=WRONG["segment"])


def noise(answer: Any) -> None:
    """the loss of a segment depends on its own noise and on all before, through where it begins."""
    one_of(answer, "since the start", dict(WRONG["noise"]))
