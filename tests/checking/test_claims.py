"""`expect`: what holds, what fails, what is no claim, and that the line tells nothing of the measurement."""

import math

import numpy as np
import pytest
import torch

from metabook.checking import expect

HOLDS = [
    ((4.001, 4), {"rtol": 1e-3}, "4 within 0.1 %"),
    ((4.001, 4.0), {"atol": 0.01}, "4 within 0.01"),
    ((1.5e-9, 0.0), {"atol": 1e-8}, "0 within 1e-08"),
    ((1.12, 1.0), {"rtol": 0.1, "atol": 0.05}, "1 within 10 % + 0.05"),
    ((-2.02, -2.0), {"rtol": 0.02}, "-2 within 2 %"),
    ((5, 5), {}, "exactly 5"),
    ((torch.tensor(True), True), {}, "exactly True"),
    ((0.9,), {"lo": 0.9}, "at least 0.9"),
    ((0.5,), {"hi": 0.5}, "at most 0.5"),
    ((0.5,), {"lo": 0.0, "hi": 1.0}, "between 0 and 1"),
    ((torch.ones(1, 1, requires_grad=True),), {"hi": 1}, "at most 1"),
    ((np.float32(0.25),), {"hi": torch.tensor(0.5)}, "at most 0.5"),
    ((np.array([[2]]), 2), {}, "exactly 2"),
    ((math.inf,), {"lo": 3}, "at least 3"),
]
FAILS = [
    ((4.1, 4), {"rtol": 1e-3}),
    ((4.011, 4.0), {"atol": 0.01}),
    ((6, 5), {}),
    ((0.8999,), {"lo": 0.9}),
    ((0.5001,), {"hi": 0.5}),
    ((1.1,), {"lo": 0.0, "hi": 1.0}),
    ((math.nan,), {"lo": -1e30}),
    ((math.nan,), {"hi": 1e30}),
    ((math.nan, 1.0), {"atol": 1e30}),
    ((math.inf,), {"hi": 3}),
    ((torch.tensor(math.nan),), {"lo": 0, "hi": 1}),
]
MISUSE = [
    ((1.0,), {}, "claims nothing"),
    ((1.0, 1.0), {}, "no tolerance"),
    ((1.0, 1.0), {"rtol": 0.1, "lo": 0.5}, "target and bounds"),
    ((1.0,), {"rtol": 0.1, "lo": 0.5}, "no target"),
    ((1.0, 1.0), {"rtol": -0.1}, "rtol=-0.1"),
    ((1.0, 1.0), {"atol": math.inf}, "atol=inf"),
    ((1.0, math.nan), {"rtol": 0.1}, "finite"),
    ((1.0,), {"lo": math.nan}, "finite"),
    ((1.0,), {"lo": 2, "hi": 1}, "above"),
    ((torch.ones(2),), {"lo": 0}, r"shape \(2,\)"),
    ((np.ones(0),), {"lo": 0}, r"shape \(0,\)"),
    (("high",), {"lo": 0}, "'high'"),
    ((None,), {"lo": 0}, "None"),
    ((torch.tensor(1 + 1j),), {"lo": 0}, "real number"),
]


@pytest.mark.parametrize("values, options, claim", HOLDS)
def test_a_claim_that_holds_is_printed_as_stated(values, options, claim, capsys):
    assert expect("a name", *values, **options) is None
    assert capsys.readouterr().out == f"✓ a name: {claim}\n"


@pytest.mark.parametrize("values, options", FAILS)
def test_a_claim_that_fails_raises_and_prints_nothing(values, options, capsys):
    with pytest.raises(AssertionError, match="^a name: claimed .*, measured "):
        expect("a name", *values, **options)
    assert capsys.readouterr().out == ""


def test_the_failure_names_claim_bound_and_value():
    with pytest.raises(AssertionError) as failure:
        expect("accuracy", 0.8712, lo=0.9)
    assert str(failure.value) == "accuracy: claimed at least 0.9, measured 0.8712"


@pytest.mark.parametrize("values, options, words", MISUSE)
def test_what_is_no_claim_is_a_value_error(values, options, words):
    with pytest.raises(ValueError, match=words):
        expect("a name", *values, **options)


def test_the_line_does_not_depend_on_the_value(capsys):
    lines = set()
    for value in torch.linspace(0.9, 1, 7, dtype=torch.float64):
        expect("accuracy", value, lo=0.9)
        expect("coverage", value, 0.95, atol=0.06)
        lines.add(capsys.readouterr().out)
    assert len(lines) == 1
