"""How sure is a score?  An interval is as wide as the units that were drawn at random allow.

A few-shot score has three levels: queries within tasks, and tasks within groups such as alphabets.  Answers to
queries of one task resemble each other, and so do the tasks of one group.  With an intraclass correlation rho
between the m answers of a task, the variance of their mean is larger than that of as many independent answers by
Kish's design effect (L. Kish, "Survey Sampling", Wiley, 1965)

    1 + (m - 1) rho.

All functions take leading dimensions, so thousands of simulated evaluations are one call.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

NORMAL = 1.959964  # 97.5 % quantile of the standard normal distribution


class Interval(NamedTuple):
    """A 95 % interval, `mean - half_width` to `mean + half_width`."""

    mean: Tensor
    half_width: Tensor

    def covers(self, truth: Tensor | float) -> Tensor:
        """Whether the truth lies inside, bool of the shape of `mean`."""
        return (self.mean - truth).abs() <= self.half_width


def over_units(units: Tensor, quantile: float = NORMAL) -> Interval:
    """Interval for the mean of the distribution that `units (..., n)` were drawn from, each independently.

    Args:
        units: one number for each unit.
        quantile: of the standardised mean; `student_quantile(n - 1)` for few units.

    Returns:
        Mean and `quantile * std / sqrt(n)`, each `(...)`.

    Raises:
        ValueError: fewer than two units.
    """
    n = units.shape[-1] if units.ndim else 0
    if n < 2:
        raise ValueError(f"an interval needs at least two units in the last dimension, got shape {tuple(units.shape)}")
    return Interval(units.mean(-1), quantile * units.std(-1) / n**0.5)


def over_tasks(answers: Tensor) -> Interval:
    """The interval to report: the task is the unit.

    Args:
        answers: score of each query `(..., tasks, queries)`, 1.0 for a right answer and 0.0 for a wrong one.
    """
    return over_units(answers.mean(-1))


def over_queries(answers: Tensor) -> Interval:
    """The interval *not* to report: all answers pooled as if they were independent.  Shapes as in `over_tasks`."""
    return over_units(answers.flatten(-2))


def over_groups(scores: Tensor) -> Interval:
    """The interval that speaks of new groups: the group is the unit, with Student's quantile as groups are few.

    Args:
        scores: score of each task `(..., groups, tasks)`, as many tasks in each group.
    """
    groups = scores.shape[-2]
    return over_units(scores.mean(-1), student_quantile(groups - 1))


def intraclass_correlation(answers: Tensor) -> Tensor:
    """Correlation rho of two answers of the same task, by the analysis of variance.

    With the mean squares between tasks B and within tasks W, and m queries per task,
    rho = (B - W) / (B + (m - 1) W).

    Args:
        answers: `(..., tasks, queries)`, at least two of each.

    Returns:
        `(...)`; between -1/(m-1) and 1, and nan if all answers are equal.

    Raises:
        ValueError: fewer than two tasks or queries.
    """
    if answers.ndim < 2 or min(answers.shape[-2:]) < 2:
        raise ValueError(f"rho needs at least two tasks and two queries, got answers of shape {tuple(answers.shape)}")
    m = answers.shape[-1]
    between = m * answers.mean(-1).var(-1)
    within = answers.var(-1).mean(-1)
    return (between - within) / (between + (m - 1) * within)


def design_effect(rho: Tensor | float, queries: int) -> Tensor | float:
    """By how much the variance of a mean grows when `queries` answers come from each task (Kish, 1965)."""
    return 1 + (queries - 1) * rho


def pooled_coverage(effect: Tensor | float) -> float:
    """How often a pooled 95 % interval contains the truth: it is too narrow by the root of the design effect.

    `P(|z| <= 1.96 / sqrt(effect))` for a standard normal z, the limit for many tasks.
    """
    return math.erf(NORMAL / math.sqrt(2 * float(effect)))


def resample(population: Tensor, evaluations: int, n: int, generator: torch.Generator) -> Tensor:
    """Simulate evaluations: draw `n` rows of the population, with replacement, `evaluations` times.

    Args:
        population: `(rows, ...)`, for example the answers of many tasks.
        evaluations: number of simulated evaluations.
        n: rows of each.
        generator: of the population's device.

    Returns:
        `(evaluations, n, ...)`.
    """
    rows = torch.randint(len(population), (evaluations, n), generator=generator, device=population.device)
    return population[rows]


def student_quantile(freedom: int) -> float:
    """97.5 % quantile of Student's t, by its expansion around the normal one.

    M. Abramowitz and I. Stegun, "Handbook of Mathematical Functions", 1964, equation 26.7.5.  The error is below
    0.1 % from 4 degrees of freedom on.

    Raises:
        ValueError: fewer than 4 degrees of freedom, where the expansion is too coarse.
    """
    if freedom < 4:
        raise ValueError(f"the expansion needs at least 4 degrees of freedom (5 units), got {freedom}")
    z, v = NORMAL, freedom
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4)
    )
