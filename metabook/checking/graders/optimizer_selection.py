"""Graders of the chapter optimization/optimizer_selection."""

from typing import Any

import torch
from torch import Tensor

from metabook.checking.compare import in_range, one_of, same_function


def _losses(tasks: int, algorithms: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(tasks, algorithms, generator=generator, dtype=torch.float64)


def _virtual_best(choose: Tensor, score: Tensor) -> Tensor:
    return score.gather(1, choose.argmin(-1, keepdim=True))[:, 0]


WRONG = {
    "target": [
        ("better", "Which part of a task's losses can be taken away without changing which algorithm is the least?"),
        ("worse", "The regret differs from the loss by one number per task. Does a ridge regression notice it?"),
    ],
    "curse": [
        (0.0, "The smallest of four noisy measurements is not a typical one, even if all four are equally good."),
        (0.02, "Two standard deviations are too much for the smallest of only four. Draw them and look."),
    ],
    "virtual_best": [
        (
            lambda choose, score: score.amin(-1),
            "This chooses and scores with the same runs: luck counts as skill. Choose by `choose` alone.",
        ),
        (
            lambda choose, score: choose.amin(-1),
            "These are the losses that the choice was made by. What does the chosen algorithm get on `score`?",
        ),
        (
            lambda choose, score: ((choose + score) / 2).amin(-1),
            "The mean of both still contains the runs that it is scored with.",
        ),
        (
            lambda choose, score: score[:, choose.mean(0).argmin()],
            "This is one algorithm for all tasks, a single best. The virtual best chooses for each task.",
        ),
    ],
}


def target(answer: Any) -> None:
    """what all algorithms of a task have in common moves all predictions of a task alike, so the least stays least."""
    one_of(answer, "same", dict(WRONG["target"]))


def curse(answer: Any) -> None:
    """the least of four equal algorithms looks better by about 1.03 standard errors, and all of that is luck."""
    in_range(answer, 0.0098, 0.0108, below=WRONG["curse"][0][1], above=WRONG["curse"][1][1])


def virtual_best(answer: Any) -> None:
    """chosen by one half, scored by the other: what is left of the gap is there."""
    cases = [(_losses(n, k, seed=n), _losses(n, k, seed=n + 100)) for n, k in ((5, 3), (8, 4), (12, 28))]
    same_function(answer, _virtual_best, cases, wrong=WRONG["virtual_best"])
