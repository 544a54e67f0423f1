"""Graders of the chapter basics/small_data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metabook.checking.compare import Hint, in_range, one_of, same_function


def _overconfidence(scores: Tensor, y: Tensor) -> Tensor:
    return scores.softmax(-1).amax(-1).mean() - (scores.argmax(-1) == y).double().mean()


def _examples_needed(scale: float, slope: float, error: float) -> float:
    return (error / scale) ** (1 / slope)


WRONG = {
    "halve": [
        (2, "Twice the examples divide the error by the square root of 2 here. Go on until it is divided by 2."),
        (0.25, "That many times fewer examples would double the error. Which way does the exponent go?"),
        (1.41, "That is what twice the examples do to the error. The question is the other way round."),
    ],
    "overconfidence": [
        (
            lambda scores, y: (scores.argmax(-1) == y).double().mean() - scores.softmax(-1).amax(-1).mean(),
            "has the wrong sign",
        ),
        (
            lambda scores, y: scores.amax(-1).mean() - (scores.argmax(-1) == y).double().mean(),
            "A score is not a probability yet. What makes one of it?",
        ),
        (
            lambda scores, y: (scores.softmax(-1).amax(-1) - (scores.argmax(-1) == y).double()).abs().mean(),
            "The two are averages, to be compared once, not image by image.",
        ),
        (
            lambda scores, y: (
                scores.softmax(-1).gather(-1, y[:, None]).mean() - (scores.argmax(-1) == y).double().mean()
            ),
            "Confidence is the probability of the answer that is given, not of the right one.",
        ),
    ],
    "needed": [
        (
            lambda scale, slope, error: (error / scale) ** slope,
            "Undoing a power takes its reciprocal, the root.",
        ),
        (
            lambda scale, slope, error: (error / scale) ** (-1 / slope),
            "The slope is negative already. Do fewer examples give a smaller error?",
        ),
        (
            lambda scale, slope, error: error ** (1 / slope),
            "What becomes of the scale?",
        ),
    ],
    "twins": [
        ("lower", "The weights of a linear classifier are found by going down a bowl with one lowest point. "
         "Do two runs end far apart or close together?"),
        ("equal", "A linear classifier has one map for each class, and training nearly finds it. "
         "Is there as much to agree on in a network, whose pieces may be learned in any order?"),
    ],
    "floor": [
        ((1.0, 0.5, 0.0), "an error that falls on without end is what the line says, too"),
        ((5.0, 1.0, 0.05), "the five points do not lie on a line"),
        ((5.0, 1.0), "three numbers are asked for"),
    ],
}  # fmt: skip


def halve(answer: Any) -> None:
    """at a slope of one half, four times the examples halve the error, sixteen times make it a quarter."""
    for mistake, hint in WRONG["halve"]:
        if isinstance(answer, (int, float)) and abs(answer - mistake) < 0.02:
            raise Hint(hint)
    in_range(answer, 3.99, 4.01, below="So few do not halve it.", above="That many do more than halve it.")


def overconfidence(answer: Any) -> None:
    """mean confidence minus accuracy: above zero, the network claims more than it delivers."""
    generator = torch.Generator().manual_seed(0)
    cases = [
        (
            2 * torch.randn(n, 4, generator=generator, dtype=torch.float64),
            torch.randint(4, (n,), generator=generator),
        )
        for n in (9, 40)
    ]
    same_function(answer, _overconfidence, cases, wrong=WRONG["overconfidence"])


def needed(answer: Any) -> None:
    """the power law, solved for the number of examples."""
    cases = [(1.2, -0.5, 0.06), (0.9, -0.35, 0.01), (2.0, -0.8, 0.1)]
    same_function(answer, _examples_needed, cases, wrong=WRONG["needed"])


def twins(answer: Any) -> None:
    """linear classifiers agree on their reasons more than networks do, since there is one valley."""
    one_of(answer, "higher", dict(WRONG["twins"]))


def floor(answer: Any) -> None:
    """five points on a line, and beyond them a floor that no line shows."""
    try:
        a, b, c = (float(part) for part in answer)
    except (TypeError, ValueError):
        raise Hint("three numbers are asked for: a, b and c.") from None
    if not (a > 0 and b > 0 and c >= 0):
        raise Hint("a and b are above zero, and c is at least zero.")
    sizes = 10 * 2 ** torch.arange(5, dtype=torch.float64)
    log_n, log_e = sizes.log(), (a * sizes**-b + c).log()
    centred = log_n - log_n.mean()
    slope = (centred @ log_e) / centred.square().sum()
    residual = log_e - log_e.mean() - slope * centred
    if residual.abs().max() > 0.05:
        raise Hint("the five points do not lie on a line: one is off by more than 5 %. Make the floor lower.")
    line = (log_e.mean() + slope * (torch.tensor(10240.0).double().log() - log_n.mean())).exp()
    ratio = float((a * 10240.0**-b + c) / line)
    if ratio < 5:
        raise Hint(
            f"the true error at 10,240 examples is {ratio:.1f} times what the line says, less than 5 times; an error "
            "that falls on without end is what the line says, too."
        )
