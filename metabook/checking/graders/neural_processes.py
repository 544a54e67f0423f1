"""Graders of the chapter generative/neural_processes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from metabook.checking.compare import in_range, one_of, same_function
from metabook.generative.neural_processes import npml


def _weights(t: Tensor, x: Tensor, length: float) -> Tensor:
    return torch.exp(-((t[:, None] - x) ** 2) / (2 * length**2))


def _signal(t: Tensor, x: Tensor, y: Tensor, length: float) -> Tensor:
    weights = _weights(t, x, length)
    return weights @ y / weights.sum(1)


WRONG = {
    "bound": [
        (
            lambda log_p: log_p.mean(0),
            "That is the mean of the logarithms. The bound is the logarithm of a mean, and it is higher.",
        ),
        (
            lambda log_p: log_p.logsumexp(0),
            "That is the logarithm of a sum: with twice the samples it would grow by log 2.",
        ),
        (
            lambda log_p: log_p.exp().mean(0).log(),
            "Right on paper. What is exp(-1000) in floating point, and what its logarithm?",
        ),
        (
            lambda log_p: log_p.logsumexp(1) - math.log(log_p.shape[1]),
            "Which dimension holds the samples?",
        ),
    ],
    "signal": [
        (
            lambda t, x, y, length: _weights(t, x, length) @ y,
            "Where two points lie together this is twice their value. What does the density divide?",
        ),
        (
            lambda t, x, y, length: _weights(t, x, length) @ y / len(x),
            "The number of points is not how many are near.",
        ),
        (
            lambda t, x, y, length: _signal(t, x, y, length / math.sqrt(2)),
            "The bump is too narrow: is there a factor of two beside the length?",
        ),
        (
            lambda t, x, y, length: _signal(t, x, y, math.sqrt(length)),
            "The length counts squared.",
        ),
    ],
    "twice": [
        ("smaller", "More points, more certainty: so it should be. But what does the mean over the points do?"),
        ("larger", "Nothing was made less certain. What does the mean over the points do?"),
    ],
    "useless": [
        (1.0, "That is the function alone. What do the targets have besides?"),
        (1.1, "Standard deviations do not add up. What does?"),
        (0.1, "That is the noise alone, for somebody who knows the function."),
        (1.645, "That is the half-width of an interval. The standard deviation is asked for."),
    ],
}


def bound(answer: Any) -> None:
    """the logarithm of the mean likelihood, taken without leaving the logarithms."""
    generator = torch.Generator().manual_seed(0)
    cases = [(scale * torch.randn(n, 3, generator=generator).double() - shift,)
             for n, scale, shift in ((4, 1.0, 0.0), (7, 3.0, 1000.0))]  # fmt: skip
    same_function(answer, npml, cases, wrong=WRONG["bound"])


def signal(answer: Any) -> None:
    """a mean of the values, weighted by how near their points are."""
    generator = torch.Generator().manual_seed(0)
    cases = []
    for n, length in ((5, 0.5), (8, 0.3)):
        x = torch.rand(n, generator=generator).double()
        y = torch.randn(n, generator=generator).double()
        cases.append((torch.linspace(0, 1, 6).double(), x, y, length))
    same_function(answer, _signal, cases, wrong=WRONG["signal"])


def twice(answer: Any) -> None:
    """the mean of the encodings does not count how often a point was seen."""
    one_of(answer, "same", dict(WRONG["twice"]))


def useless(answer: Any) -> None:
    """variances add up, so a target varies by sqrt(1 + 0.1^2) over all tasks: calibrated, and ignorant."""
    hints = dict(WRONG["useless"])
    near_one = isinstance(answer, (int, float)) and abs(answer - 1) < 1e-3
    in_range(
        answer,
        1.0045,
        1.0055,
        below=hints[1.0] if near_one else hints[0.1],
        above=hints[1.645] if isinstance(answer, (int, float)) and answer > 1.3 else hints[1.1],
    )
