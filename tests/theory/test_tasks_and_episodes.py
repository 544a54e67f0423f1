"""Intervals cover what they promise, and the closed forms hold."""

import math

import pytest
import torch

from metabook import Scores
from metabook.theory.tasks_and_episodes import (
    Interval,
    design_effect,
    intraclass_correlation,
    over_groups,
    over_queries,
    over_tasks,
    over_units,
    pooled_coverage,
    resample,
    student_quantile,
)

EVALUATIONS = 4000
THREE_SIGMA = 3 * (0.95 * 0.05 / EVALUATIONS) ** 0.5


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def clustered(*shape, rho, seed=0):
    """Standard normal answers with correlation rho within the last dimension; the true mean is 0."""
    g = generator(seed)
    shared = torch.randn(*shape[:-1], 1, generator=g, dtype=torch.float64)
    own = torch.randn(*shape, generator=g, dtype=torch.float64)
    return rho**0.5 * shared + (1 - rho) ** 0.5 * own


def coverage(interval):
    return interval.covers(0.0).double().mean().item()


def test_interval_of_known_numbers():
    interval = over_units(torch.tensor([[1.0, 2.0, 3.0], [2.0, 2.0, 2.0]]))
    torch.testing.assert_close(interval.mean, torch.tensor([2.0, 2.0]))
    torch.testing.assert_close(interval.half_width, torch.tensor([1.959964 / 3**0.5, 0.0]))
    assert Interval(torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.5])).covers(0.7).tolist() == [True, False]


def test_interval_over_tasks_is_that_of_scores():
    answers = torch.rand(40, 6, generator=generator()).round()
    scores, interval = Scores(answers.mean(-1)), over_tasks(answers)
    assert interval.mean.item() == pytest.approx(scores.mean)
    assert interval.half_width.item() == pytest.approx(scores.ci95, rel=1e-4)


def test_pooled_interval_is_the_binomial_one():
    answers = torch.rand(40, 6, generator=generator()).round().double()
    p = answers.mean().item()
    assert over_queries(answers).half_width.item() == pytest.approx(1.959964 * (p * (1 - p) / 239) ** 0.5)


def test_only_the_interval_over_tasks_covers():
    """Answers with rho = 0.1: the pooled interval covers as often as its design effect of 2.4 says."""
    answers = clustered(EVALUATIONS, 50, 15, rho=0.1)
    assert coverage(over_tasks(answers)) == pytest.approx(0.945, abs=THREE_SIGMA + 0.002)  # normal quantile, 50 tasks
    assert coverage(over_queries(answers)) == pytest.approx(pooled_coverage(2.4), abs=0.02)


def test_both_intervals_cover_when_answers_are_independent():
    answers = clustered(EVALUATIONS, 100, 15, rho=0.0)
    assert coverage(over_tasks(answers)) == pytest.approx(0.947, abs=THREE_SIGMA + 0.002)
    assert coverage(over_queries(answers)) == pytest.approx(0.95, abs=THREE_SIGMA)


def test_few_groups_are_covered_with_students_quantile():
    scores = clustered(EVALUATIONS, 6, 10, rho=0.3)
    assert coverage(over_groups(scores)) == pytest.approx(0.95, abs=THREE_SIGMA)
    assert coverage(over_units(scores.flatten(-2))) < 0.75


def test_intraclass_correlation_of_known_answers():
    same = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    assert intraclass_correlation(same).item() == 1.0  # all variance lies between tasks
    mirrored = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert intraclass_correlation(mirrored).item() == -1.0  # none does: the lower bound -1/(m-1)
    assert intraclass_correlation(torch.ones(3, 4)).isnan()


@pytest.mark.parametrize("rho", [0.0, 0.05, 0.4])
def test_intraclass_correlation_is_recovered(rho):
    assert intraclass_correlation(clustered(20000, 10, rho=rho)).item() == pytest.approx(rho, abs=0.01)


def test_design_effect_is_the_ratio_of_the_two_variances():
    """For many tasks (width over tasks / pooled width)^2 is 1 + (m - 1) rho exactly, up to 1/n."""
    answers = (clustered(20000, 12, rho=0.3) > 0.5).double()
    ratio = (over_tasks(answers).half_width / over_queries(answers).half_width).square().item()
    assert ratio == pytest.approx(design_effect(intraclass_correlation(answers).item(), 12), rel=2e-4)


def test_design_effect_and_coverage_of_special_cases():
    assert design_effect(0.0, 75) == 1 and design_effect(1.0, 75) == 75 and design_effect(0.5, 1) == 1
    assert pooled_coverage(1.0) == pytest.approx(0.95, abs=1e-6)
    assert pooled_coverage(4.0) == pytest.approx(math.erf(0.979982 / 2**0.5), abs=1e-6)


@pytest.mark.parametrize(("freedom", "value"), [(4, 2.776445), (5, 2.570582), (10, 2.228139), (19, 2.093024)])
def test_student_quantile_is_that_of_the_tables(freedom, value):
    assert student_quantile(freedom) == pytest.approx(value, rel=1e-3 if freedom < 10 else 1e-5)


def test_resampling_draws_rows_of_the_population():
    population = torch.arange(10.0)[:, None].expand(10, 3)
    drawn = resample(population, 500, 4, generator())
    assert drawn.shape == (500, 4, 3) and torch.equal(drawn[..., 0], drawn[..., 2])
    counts = drawn[..., 0].flatten().long().bincount(minlength=10)
    assert (counts - 200).abs().max() < 5 * (2000 * 0.1 * 0.9) ** 0.5
    assert torch.equal(drawn, resample(population, 500, 4, generator()))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: over_units(torch.ones(3, 1)), r"at least two units in the last dimension, got shape \(3, 1\)"),
        (lambda: over_units(torch.tensor(1.0)), r"at least two units in the last dimension, got shape \(\)"),
        (lambda: intraclass_correlation(torch.ones(3, 1)), r"two tasks and two queries, got answers of shape \(3, 1\)"),
        (lambda: over_groups(torch.ones(3, 5)), "at least 4 degrees of freedom .5 units., got 2"),
    ],
)
def test_too_little_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
