"""What graders are made of: compare an answer with the right one, and turn the difference into a hint."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Wrong = Iterable[tuple[Any, str]]  # known wrong answers, each with its hint


class Hint(Exception):
    """What a reader whose answer is not right yet should think about: one or two sentences."""


def same_value(
    answer: Any,
    right: Any,
    *,
    wrong: Wrong = (),
    rtol: float = 1e-4,
    atol: float = 1e-6,
    what: str = "the answer",
) -> None:
    """Compare numbers, tensors, arrays, or tuples, lists and dicts of them.

    Args:
        answer: what the reader gives.
        right: what it should be.
        wrong: known wrong values with their hints, looked for before any general hint.
        rtol: relative tolerance, per element.
        atol: absolute tolerance, per element.
        what: how the hint calls the answer.

    Raises:
        Hint: the answer differs.
    """
    hint = difference(answer, right, rtol, atol, what)
    if hint is None:
        return
    for mistake, its_hint in wrong:
        if difference(answer, mistake, rtol, atol, what) is None:
            raise Hint(its_hint)
    raise Hint(hint)


def same_function(
    answer: Any,
    right: Callable[..., Any],
    cases: Sequence[tuple[Any, ...]],
    *,
    wrong: Iterable[tuple[Callable[..., Any], str]] = (),
    rtol: float = 1e-4,
    atol: float = 1e-6,
) -> None:
    """Compare a reader's function with the right one on given inputs.

    Args:
        answer: the reader's function.
        right: the function it should agree with.
        cases: arguments to call both with, one tuple per call; make them from a seeded generator.
        wrong: known wrong functions with their hints; one that agrees with the answer on every case wins.
        rtol: relative tolerance, per element.
        atol: absolute tolerance, per element.

    Raises:
        Hint: the answer is no function, fails, returns nothing, changes its inputs, or differs.
    """
    if not callable(answer):
        raise Hint(f"a function is asked for, this is a {type(answer).__name__}.")
    results = [_call(answer, case) for case in cases]

    def agrees_with(function: Callable[..., Any]) -> str | None:
        for case, result in zip(cases, results, strict=True):
            expected, what = function(*copy.deepcopy(case)), f"the result for {_words(case)}"
            hint = difference(result, expected, rtol, atol, what)
            if hint is not None:
                return hint
        return None

    hint = agrees_with(right)
    if hint is None:
        return
    for mistake, its_hint in wrong:
        if agrees_with(mistake) is None:
            raise Hint(its_hint)
    raise Hint(hint)


def one_of(answer: Any, right: str, wrong: Mapping[str, str]) -> None:
    """A choice between words: the right one, and the wrong ones with the hint that each gets."""
    options = sorted([right, *wrong])
    chosen = answer.strip().lower() if isinstance(answer, str) else answer
    if not isinstance(chosen, str) or chosen not in options:
        raise Hint(f"choose one of {', '.join(repr(option) for option in options)}.")
    if chosen != right:
        raise Hint(wrong[chosen])


def in_range(answer: Any, lo: float, hi: float, *, below: str, above: str) -> float:
    """A number from `lo` to `hi`, which is returned; `below` and `above` are the hints of the two sides."""
    tensor = _tensor(answer)
    if tensor is None or tensor.numel() != 1 or math.isnan(tensor.item()):
        raise Hint(f"one number is asked for, this is {_words((answer,))}.")
    if tensor.item() < lo:
        raise Hint(below)
    if tensor.item() > hi:
        raise Hint(above)
    return tensor.item()


def difference(answer: Any, right: Any, rtol: float, atol: float, what: str) -> str | None:
    """None if both agree, else a sentence on the first thing in which they differ."""
    if isinstance(right, Mapping):
        if not isinstance(answer, Mapping) or set(answer) != set(right):
            return f"{what} should be a dict with the keys {sorted(map(str, right))}."
        pairs = [(answer[key], right[key], f"{what}, at {key!r},") for key in right]
    elif isinstance(right, (tuple, list)) and not all(isinstance(part, (int, float)) for part in right):
        if not isinstance(answer, (tuple, list)) or len(answer) != len(right):
            return f"{what} should have {len(right)} parts."
        pairs = [(a, b, f"{what}, part {i},") for i, (a, b) in enumerate(zip(answer, right, strict=True))]
    else:
        return _tensor_difference(answer, right, rtol, atol, what)
    return next(filter(None, (difference(a, b, rtol, atol, name) for a, b, name in pairs)), None)


def _tensor_difference(answer: Any, right: Any, rtol: float, atol: float, what: str) -> str | None:
    ours, theirs = _tensor(right), _tensor(answer)
    if theirs is None:
        return f"{what} should be made of numbers, it is a {type(answer).__name__}."
    if theirs.shape != ours.shape:
        return f"{what} has the shape {tuple(theirs.shape)}, expected {tuple(ours.shape)}."
    if theirs.isnan().any() and not ours.isnan().any():
        return f"{what} holds nan."
    if torch.allclose(theirs, ours, rtol=rtol, atol=atol, equal_nan=True):
        return None
    if theirs.shape and torch.allclose(theirs, -ours, rtol=rtol, atol=atol):
        return f"{what} has the wrong sign."
    if theirs.numel() == 1:
        return f"{what} is not right yet: {theirs.item():.4g}."
    gap = (theirs - ours).abs().max().item()
    return f"{what} has the right shape, but its values are off by up to {gap:.2g}."


def _call(function: Callable[..., Any], case: tuple[Any, ...]) -> Any:
    given = copy.deepcopy(case)
    try:
        result = function(*given)
    except Exception as error:
        raise Hint(f"called with {_words(case)} it raised {type(error).__name__}: {error}") from None
    if result is None or result is ...:
        raise Hint(f"called with {_words(case)} it returned {result}: is the return missing?")
    if any(_changed(before, after) for before, after in zip(case, given, strict=True)):
        raise Hint("it changes its inputs in place; compute new values instead.")
    return result


def _changed(before: Any, after: Any) -> bool:
    if isinstance(before, Mapping):
        return set(before) != set(after) or any(_changed(before[key], after[key]) for key in before)
    return _tensor(before) is not None and difference(after, before, 0.0, 0.0, "") is not None


def _tensor(value: Any) -> Tensor | None:
    """A float64 tensor on the CPU, or None if the value is not made of numbers."""
    try:
        return torch.as_tensor(value).detach().to("cpu", torch.float64)
    except (TypeError, ValueError, RuntimeError):
        return None


def _words(case: tuple[Any, ...]) -> str:
    """Arguments in few words: the shape of a tensor, the value of a number."""
    return ", ".join(
        f"a tensor {tuple(part.shape)}" if isinstance(part, Tensor)
        else repr(part) if isinstance(part, (int, float, str, bool))
        else f"a {type(part).__name__}"
        for part in case
    )  # fmt: skip
