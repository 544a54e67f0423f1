"""What graders are made of: right answers pass in every form, wrong ones get the most telling hint."""

import numpy as np
import pytest
import torch

from metabook.checking.compare import Hint, in_range, one_of, same_function, same_value

X = torch.tensor([1.0, -2.0, 3.0])
CASES = [(X, 2.0), (torch.tensor([0.5, 0.25, 4.0]), -1.0)]


def scale(x, factor):
    return x * factor


@pytest.mark.parametrize(
    "answer, right",
    [
        (3, 3.0),
        (3.0000001, 3),
        (torch.tensor([1, 2]), [1.0, 2.0]),
        (np.array([1.0, 2.0]), torch.tensor([1.0, 2.0])),
        ([1.0, 2.0], torch.tensor([1.0, 2.0], dtype=torch.float64)),
        (X.clone().requires_grad_(), X),
        ({"w": X, "b": 1.0}, {"w": X, "b": 1.0}),
        ((X, [X, 2]), (X, [X, 2])),
        (float("nan"), float("nan")),
        (True, True),
    ],
)
def test_the_same_value_in_another_form_is_right(answer, right):
    same_value(answer, right)


@pytest.mark.parametrize(
    "answer, right, hint",
    [
        (2.0, 3.0, "not right yet: 2"),
        ("three", 3.0, "made of numbers, it is a str"),
        (None, 3.0, "NoneType"),
        (X[:2], X, r"shape \(2,\), expected \(3,\)"),
        (3.0, X, r"shape \(\), expected \(3,\)"),
        (-X, X, "wrong sign"),
        (X * float("nan"), X, "holds nan"),
        (X + 0.5, X, "off by up to 0.5"),
        ({"w": X}, {"w": X, "b": X}, r"keys \['b', 'w'\]"),
        ({"w": X, "b": -X}, {"w": X, "b": X}, "at 'b', has the wrong sign"),
        ([X], (X, X), "2 parts"),
        ((X, X + 1), (X, X), "part 1, has the right shape"),
        (7, (X, X), "2 parts"),
    ],
)
def test_a_difference_becomes_a_hint(answer, right, hint):
    with pytest.raises(Hint, match=hint):
        same_value(answer, right)


def test_a_known_mistake_comes_before_the_general_hint():
    with pytest.raises(Hint, match="^sum, not mean$"):
        same_value(6.0, 2.0, wrong=[(1.0, "one"), (6.0, "sum, not mean")])
    same_value(2.0, 2.0, wrong=[(2.0, "a mistake that equals the answer is none")])


def test_tolerances_are_those_asked_for():
    same_value(1.01, 1.0, rtol=0.02)
    with pytest.raises(Hint):
        same_value(1.01, 1.0, rtol=1e-3)
    same_value(0.01, 0.0, atol=0.02)


def test_a_function_that_agrees_is_right():
    same_function(lambda x, factor: factor * x, scale, CASES)
    same_function(torch.mul, scale, CASES)


def in_place(x, factor):
    return x.mul_(factor)


def in_place_in_a_dict(weights):
    weights["w"] += 1
    return weights["w"] - 1


def fails(x, factor):
    raise RuntimeError("dimension out of range")


@pytest.mark.parametrize(
    "answer, hint",
    [
        (3.0, "a function is asked for, this is a float"),
        (fails, r"called with a tensor \(3,\), 2.0 it raised RuntimeError: dimension out of range"),
        (lambda x: x, "raised TypeError"),
        (lambda x, factor: None, "returned None: is the return missing"),
        (lambda x, factor: ..., "returned Ellipsis"),
        (in_place, "changes its inputs in place"),
        (lambda x, factor: x + factor, "add or multiply"),
        (lambda x, factor: -x * factor, "wrong sign"),
        (lambda x, factor: (x * factor).sum(), r"for a tensor \(3,\), 2.0 has the shape \(\)"),
        (lambda x, factor: x * 2, r"for a tensor \(3,\), -1.0 has the right shape"),
    ],
)
def test_a_function_that_differs_gets_a_hint(answer, hint):
    with pytest.raises(Hint, match=hint):
        same_function(answer, scale, CASES, wrong=[(lambda x, factor: x + factor, "add or multiply?")])


def test_changed_entries_of_a_dict_are_seen_and_the_cases_stay_whole():
    weights = {"w": torch.zeros(2)}
    with pytest.raises(Hint, match="in place"):
        same_function(in_place_in_a_dict, lambda weights: weights["w"], [(weights,)])
    assert weights["w"].eq(0).all()


@pytest.mark.parametrize("answer", ["lower", " Lower "])
def test_the_right_choice(answer):
    one_of(answer, "lower", {"higher": "more tasks, less noise"})


@pytest.mark.parametrize(
    "answer, hint",
    [("higher", "less noise"), ("sideways", "choose one of 'higher', 'lower'"), (3, "choose one of")],
)
def test_other_choices(answer, hint):
    with pytest.raises(Hint, match=hint):
        one_of(answer, "lower", {"higher": "more tasks, less noise"})


def test_a_number_in_a_range():
    assert in_range(torch.tensor([0.5]), 0, 1, below="more", above="less") == 0.5
    assert in_range(1, 0, 1, below="more", above="less") == 1
    for answer, hint in [(-1, "more"), (2, "less"), ([1, 2], "one number"), ("a", "'a'"), (float("nan"), "nan")]:
        with pytest.raises(Hint, match=hint):
            in_range(answer, 0, 1, below="more", above="less")
