"""A mixture of families: each task is of its family, and the families are alike in scale."""

import pytest
import torch

from metabook.tasks import Mixture

FAMILIES = ["sinusoid", "line", "quadratic"]


def test_same_seed_same_episode(device):
    tasks = Mixture(device=device)
    a, b, c = (tasks.sample(4, tasks.generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(a.support.y, b.support.y) and torch.equal(a.query.x, b.query.x)
    assert not torch.equal(a.support.y, c.support.y)
    assert a.support.x.device.type == device.type and a.tasks == 4


def test_points_lie_on_their_functions():
    tasks = Mixture(shots=50, queries=7)
    generator = tasks.generator(0)
    functions = tasks.functions(200, generator)
    for part, points in zip(tasks.episode(functions, generator), (50, 7), strict=True):
        assert part.x.shape == part.y.shape == (200, points, 1)
        assert -5 <= part.x.min() < -4.9 and 4.9 < part.x.max() <= 5
        torch.testing.assert_close(part.y, tasks.values(functions, part.x))


def test_all_families_are_drawn_alike_and_a_task_has_the_terms_of_its_family():
    tasks = Mixture()
    functions = tasks.functions(3000, tasks.generator(0))
    assert torch.bincount(functions.family).tolist() == pytest.approx([1000] * 3, rel=0.1)
    for number, name in enumerate(tasks.families):
        used = (functions.weights[functions.family == number] != 0).all(0)
        zero = (functions.weights[functions.family == number] == 0).all(0)
        assert tuple(used.nonzero().flatten().tolist()) == tasks.terms[name]
        assert (used ^ zero).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mixture_of_one_family_holds_that_family(family):
    tasks = Mixture([family])
    weights = tasks.functions(100, tasks.generator(0)).weights
    assert (weights[:, list(tasks.terms[family])] != 0).all()
    assert (weights != 0).sum() == 100 * len(tasks.terms[family])


def test_the_families_are_comparable_in_scale():
    """A difference between families is then no difference in units."""
    for family in FAMILIES:
        tasks = Mixture([family], shots=1, queries=100)
        y = tasks.sample(5000, tasks.generator(0)).query.y
        assert 3.2 < y.square().mean() < 4.5, family
        assert y.mean().abs() < 0.5, family


def test_parameters_fill_their_ranges():
    def weights(family):
        tasks = Mixture([family])
        return tasks.functions(5000, tasks.generator(0)).weights.T

    *_, sine, cosine = weights("sinusoid")
    amplitude, phase = torch.hypot(sine, cosine), torch.atan2(-cosine, sine)
    constant, slope, *_ = weights("line")
    height, linear, curvature, *_ = weights("quadratic")
    centre = -linear / (2 * curvature)
    ranges = {
        (0.1, 5): amplitude, (0, torch.pi): phase, (-1, 1): slope, (-2.0, 2.0): constant,
        (0.05, 0.15): curvature.abs(), (-2, 2.000001): centre, (-2.000001, 2): height - curvature * centre.square(),
    }  # fmt: skip
    assert len(ranges) == 7
    for (low, high), values in ranges.items():
        margin = 0.02 * (high - low)
        assert low - 1e-4 <= values.min() < low + margin and high - margin < values.max() <= high + 1e-4
        assert values.mean().item() == pytest.approx((low + high) / 2, abs=0.05 * (high - low))
    assert (curvature > 0).float().mean().item() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("family", FAMILIES)
def test_least_squares_on_the_terms_of_the_family_is_the_oracle(family):
    tasks = Mixture([family], shots=10, queries=20)
    generator = tasks.generator(0)
    functions = tasks.functions(100, generator)
    support, query = tasks.episode(functions, generator).to(torch.float64)
    columns = list(tasks.terms[family])
    found = torch.linalg.lstsq(tasks.features(support.x)[..., columns], support.y).solution
    assert (tasks.features(query.x)[..., columns] @ found - query.y).abs().max() < 1e-2


def test_noise_is_added_to_the_targets():
    tasks = Mixture(shots=200, noise=0.3)
    generator = tasks.generator(0)
    functions = tasks.functions(100, generator)
    support = tasks.episode(functions, generator).support
    assert (support.y - tasks.values(functions, support.x)).std().item() == pytest.approx(0.3, rel=0.02)


def test_its_name_is_its_protocol():
    assert repr(Mixture(["line", "sinusoid"], shots=5)) == "Mixture(line + sinusoid, 5-shot, 10 queries, noise 0)"


@pytest.mark.parametrize("families", [[], "line", ["cubic"], ["line", "line"]])
def test_families_that_make_no_sense_are_refused(families):
    with pytest.raises(ValueError, match="families must be different names out of sinusoid, line, quadratic, got"):
        Mixture(families)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="cannot be negative, got -1"):
        Mixture(noise=-1)
    with pytest.raises(ValueError, match="shots must be a positive integer, got 0"):
        Mixture(shots=0)
    with pytest.raises(ValueError, match="n=0"):
        Mixture().sample(0, torch.Generator())
