"""How far can a probability be believed?  Reliability, calibration error, temperature, and the ranking of tasks.

C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.  A classifier is
calibrated if, of all answers given with confidence c, a fraction c is right.  Cut 0..1 into bins B_b of equal width:

    acc(b), conf(b) = share of right answers, mean confidence in bin b
    ECE = sum_b n_b / n * abs(acc(b) - conf(b))       expected calibration error, with n_b of the n answers in bin b

*Temperature scaling* divides all logits by one number T > 0, fitted on examples that nothing else was fitted to.

The unit that was drawn at random is the task, so intervals resample tasks.  An ECE is a sum of absolute values, hence
positive even for a calibrated classifier: compare it on the same queries, with the same number of them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from metabook.tasks.distribution import check_counts
from metabook.theory.tasks_and_episodes import NORMAL, Interval


class Reliability(NamedTuple):
    """Sums over the answers that fell into each bin, `(..., bins)`; leading dimensions are tasks."""

    count: Tensor  # answers
    confidence: Tensor  # sum of their confidences
    correct: Tensor  # number of right ones

    def pooled(self) -> Reliability:
        """All tasks together: `(bins,)`."""
        return Reliability(*(part.reshape(-1, part.shape[-1]).sum(0) for part in self))

    def ece(self) -> Tensor:
        """Expected calibration error of each leading entry, `(...)`."""
        return (self.correct - self.confidence).abs().sum(-1) / self.count.sum(-1)

    def resampled_ece(self, resamples: int, generator: torch.Generator) -> Tensor:
        """The pooled error of `resamples` sets of tasks, drawn with replacement from these `(tasks, bins)`.

        Two classifiers that answered the same tasks are compared by the differences under equal generators.
        """
        if self.count.ndim != 2:
            raise ValueError(f"resampling tasks needs sums of shape (tasks, bins), got {tuple(self.count.shape)}")
        check_counts(resamples=resamples)
        tasks = len(self.count)
        chosen = torch.randint(tasks, (resamples, tasks), generator=generator).to(self.count.device)
        times = torch.zeros(resamples, tasks, dtype=self.count.dtype, device=self.count.device)
        times.scatter_add_(1, chosen, torch.ones_like(times))
        return Reliability(*(times @ part for part in self)).ece()


def reliability(confidence: Tensor, correct: Tensor, bins: int = 15) -> Reliability:
    """Sort answers into bins of equal width by their confidence.

    Args:
        confidence: probability of the answer given, `(..., answers)` in 0..1.
        correct: whether it was right, `(..., answers)`, bool or 0 and 1.
        bins: number of bins; 15 in the paper's tables.

    Returns:
        Sums in float64, `(..., bins)`.

    Raises:
        ValueError: shapes that differ, no answers, a confidence outside 0..1, fewer than one bin.
    """
    check_counts(bins=bins)
    if confidence.shape != correct.shape or confidence.numel() == 0:
        raise ValueError(
            f"confidence {tuple(confidence.shape)} and correct {tuple(correct.shape)} need one shape (..., answers) "
            "with at least one answer"
        )
    if not ((confidence >= 0) & (confidence <= 1 + 1e-6)).all():
        raise ValueError(
            f"confidences must lie in 0..1, met values from {confidence.min():g} to {confidence.max():g}; "
            "give probabilities, not logits"
        )
    values = confidence.double()
    place = (values * bins).ceil().long().clamp(1, bins) - 1  # bin b is the interval (b / bins, (b + 1) / bins]
    empty = torch.zeros(*confidence.shape[:-1], bins, dtype=torch.float64, device=confidence.device)
    parts = torch.ones_like(values), values, correct.double()
    return Reliability(*(empty.scatter_add(-1, place, part) for part in parts))


def expected_calibration_error(confidence: Tensor, correct: Tensor, bins: int = 15) -> Tensor:
    """Expected calibration error of all answers together, a scalar in 0..1.  Arguments as in `reliability`."""
    return reliability(confidence, correct, bins).pooled().ece()


def fit_temperature(logits: Tensor, y: Tensor) -> float:
    """The temperature T that minimises the mean cross-entropy of `logits / T`.

    In b = 1 / T the loss is convex, and its slope, the mean of `E_p[z] - z_y`, is brought to zero by bisection.

    Args:
        logits: `(..., ways)`, finite.
        y: int64 `(...)`.

    Raises:
        ValueError: shapes that do not fit, or logits that are not finite.
    """
    if logits.shape[:-1] != y.shape or not logits.isfinite().all():
        raise ValueError(
            f"logits {tuple(logits.shape)} must be finite and have the shape {tuple(y.shape)} of y with the ways behind"
        )
    z = logits.detach().double()
    right = z.gather(-1, y[..., None])[..., 0]
    low, high = -math.log(1e4), math.log(1e4)  # of log b
    for _ in range(60):
        middle = (low + high) / 2
        expected = ((math.exp(middle) * z).softmax(-1) * z).sum(-1)
        if (expected - right).mean() < 0:
            low = middle
        else:
            high = middle
    return math.exp(-(low + high) / 2)


def auroc(ordinary: Tensor, strange: Tensor) -> Interval:
    """How well a score tells strange tasks from ordinary ones: the area under the receiver operating characteristic.

    It is the probability that a strange task, drawn at random, scores higher than an ordinary one; a tie counts half.
    The interval is that of E. R. DeLong, D. M. DeLong, D. L. Clarke-Pearson, Biometrics 44 (1988).

    Args:
        ordinary, strange: one score for each task, `(m,)` and `(n,)`.

    Raises:
        ValueError: fewer than two tasks of a kind.
    """
    if ordinary.ndim != 1 or strange.ndim != 1 or min(len(ordinary), len(strange)) < 2:
        raise ValueError(
            "auroc needs a score for each of at least two ordinary and two strange tasks, got shapes "
            f"{tuple(ordinary.shape)} and {tuple(strange.shape)}"
        )
    a, b = ordinary.double()[:, None], strange.double()[None]
    wins = (b > a).double() + 0.5 * (b == a).double()  # (m, n)
    variance = wins.mean(1).var() / len(ordinary) + wins.mean(0).var() / len(strange)
    return Interval(wins.mean(), NORMAL * variance.sqrt())
