"""Graders of the chapter metric/strong_baselines."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metabook.checking.compare import one_of, same_function, same_value


def _distance(a: Tensor, b: Tensor) -> Tensor:
    distances = torch.cdist(a, b)
    return torch.maximum(distances.amin(1).mean(), distances.amin(0).mean())


def _cl2n(z: Tensor, mean: Tensor) -> Tensor:
    return F.normalize(z - mean, dim=-1)


WRONG = {
    "cl2n": [
        (lambda z, mean: F.normalize(z, dim=-1), "That is L2N. What does the C stand for?"),
        (
            lambda z, mean: F.normalize(z, dim=-1) - mean,
            "Here the length is taken off before the mean is. Which of the two has to come first?",
        ),
        (
            lambda z, mean: F.normalize(z - z.mean(0), dim=-1),
            "This centres at the mean of the batch at hand, so a prediction would depend on the other queries.",
        ),
        (
            lambda z, mean: F.normalize(z - mean, dim=0),
            "Every *row* is a feature vector and should have length one; these are the columns.",
        ),
        (lambda z, mean: z - mean, "Centred, but not yet of length one."),
    ],
    "hausdorff": [
        (
            lambda a, b: torch.cdist(a, b).amin(1).mean(),
            "This looks from A to B only. What of a drawing B that covers A and has much more ink?",
        ),
        (
            lambda a, b: torch.maximum(torch.cdist(a, b).amin(1).amax(), torch.cdist(a, b).amin(0).amax()),
            "That is the classical Hausdorff distance, decided by one stray pixel. What was modified?",
        ),
        (
            lambda a, b: (torch.cdist(a, b).amin(1).mean() + torch.cdist(a, b).amin(0).mean()) / 2,
            "Both directions are there. The distance takes the larger one of them, not their mean.",
        ),
        (
            lambda a, b: torch.cdist(a, b).mean(),
            "A point should be compared with the nearest point of the other set, not with all of them.",
        ),
    ],
    "answers": [
        (
            round(0.045 * 0.955 / 0.01**2),
            "That is one standard error of one point; a 95 % interval is 1.96 of them to each side.",
        ),
        (
            round(1.96**2 * 0.25 / 0.01**2),
            "That is for an error of 50 %, the worst case. A rate of 4.5 % varies much less.",
        ),
        (
            round(1.96**2 * 0.045 * 0.955 / 0.02**2),
            "One point to each side means a half-width of 0.01.",
        ),
    ],
    "leak": [
        ("group norm", "Group norm takes its statistics from one image alone: what do the other queries change?"),
        ("CL2N", "The mean that is subtracted comes from the training images. Which query has entered it?"),
        (
            "support statistics",
            "The support set is what the learner is given to learn from, so its statistics are fair.",
        ),
    ],
}


def cl2n(answer: Any) -> None:
    """two lines before the nearest class mean; the training mean keeps every query on its own."""
    generator = torch.Generator().manual_seed(0)
    cases = [
        tuple(torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((n, d), (d,)))
        for n, d in ((5, 3), (4, 7))
    ]
    same_function(answer, _cl2n, cases, wrong=WRONG["cl2n"])


def hausdorff(answer: Any) -> None:
    """five lines without any learning, the floor of Omniglot's official test."""
    generator = torch.Generator().manual_seed(0)
    cases = [
        tuple(10 * torch.rand(points, 2, generator=generator, dtype=torch.float64) for points in sizes)
        for sizes in ((4, 9), (12, 5), (6, 6))
    ]
    same_function(answer, _distance, cases, wrong=WRONG["hausdorff"])


def answers(answer: Any) -> None:
    """four times as many answers as the official test has, for an interval of one point to each side."""
    same_value(
        answer, 1.96**2 * 0.045 * 0.955 / 0.01**2, wrong=WRONG["answers"], rtol=0.02, what="the number of answers"
    )


def leak(answer: Any) -> None:
    """batch statistics of the queries: each answer depends on which other questions are asked."""
    one_of(answer, "query statistics", {name.lower(): hint for name, hint in WRONG["leak"]})
