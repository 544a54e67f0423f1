"""Claims: every sentence of the book that a number supports is asserted by a cell of its chapter."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor


def expect(
    name: str,
    value: Any,
    target: Any = None,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    lo: float | None = None,
    hi: float | None = None,
) -> None:
    """Assert a claim and print one line that depends on the claim alone, never on the value measured.

    Either near a target, `|value - target| <= atol + rtol * |target|`, or within bounds, `lo <= value <= hi`.

        >>> expect("two and two", 4.001, 4, rtol=1e-2)
        ✓ two and two: 4 within 1 %
        >>> expect("accuracy", 0.93, lo=0.9)
        ✓ accuracy: at least 0.9

    Args:
        name: what is claimed, in words.
        value: a number, or a tensor or array of one element.
        target: the value claimed; without tolerance it must be an integer or a bool and is met exactly.
        rtol: allowed deviation as a fraction of `|target|`.
        atol: allowed deviation in the unit of the value.
        lo: lower bound.
        hi: upper bound.

    Raises:
        AssertionError: the claim does not hold (a value that is not a number meets no claim).
        ValueError: the claim is not one: no bound, target and bounds together, crossed or infinite bounds,
            a negative tolerance, a float target without tolerance, or a value of many elements.
    """
    measured = _number(f"the value of {name!r}", value)
    if target is not None:
        if lo is not None or hi is not None:
            raise ValueError(f"{name!r} has a target and bounds (lo={lo}, hi={hi}); give one or the other")
        claim, holds = _near(name, measured, target, rtol, atol)
    else:
        if rtol is not None or atol is not None:
            raise ValueError(f"{name!r} has a tolerance (rtol={rtol}, atol={atol}) and no target; give one")
        claim, holds = _within(name, measured, lo, hi)
    if not holds:
        raise AssertionError(f"{name}: claimed {claim}, measured {measured:.6g}")
    print(f"✓ {name}: {claim}")


def _near(name: str, value: float, target: Any, rtol: float | None, atol: float | None) -> tuple[str, bool]:
    aim = _bound(name, "target", target)
    if rtol is None and atol is None:
        if not isinstance(target, int):  # bool is an int
            raise ValueError(f"{name!r} has the target {aim:g} but no tolerance; give rtol= or atol=")
        return f"exactly {target}", value == aim
    for option, tolerance in {"rtol": rtol, "atol": atol}.items():
        if tolerance is not None and not 0 <= tolerance < math.inf:
            raise ValueError(f"{name!r} has {option}={tolerance}; a tolerance is finite and not negative")
    allowed = (atol or 0.0) + (rtol or 0.0) * abs(aim)
    words = [f"{100 * rtol:.3g} %"] if rtol is not None else []
    words += [f"{atol:.3g}"] if atol is not None else []
    return f"{aim:.4g} within {' + '.join(words)}", abs(value - aim) <= allowed


def _within(name: str, value: float, lo: float | None, hi: float | None) -> tuple[str, bool]:
    if lo is None and hi is None:
        raise ValueError(f"{name!r} claims nothing; give a target with rtol= or atol=, or lo= or hi=")
    low = -math.inf if lo is None else _bound(name, "lo", lo)
    high = math.inf if hi is None else _bound(name, "hi", hi)
    if low > high:
        raise ValueError(f"{name!r} has lo={low:g} above hi={high:g}; no value lies between")
    if lo is None:
        claim = f"at most {high:.4g}"
    elif hi is None:
        claim = f"at least {low:.4g}"
    else:
        claim = f"between {low:.4g} and {high:.4g}"
    return claim, low <= value <= high  # False for nan


def _bound(name: str, option: str, value: Any) -> float:
    number = _number(f"{option} of {name!r}", value)
    if not math.isfinite(number):
        raise ValueError(f"{name!r} has {option}={number}; a claim needs a finite number")
    return number


def _number(what: str, value: Any) -> float:
    """A Python float from anything that holds exactly one real number."""
    if isinstance(value, Tensor):
        value = value.detach()
    size = getattr(value, "numel", None) if isinstance(value, Tensor) else getattr(value, "size", None)
    count = size() if callable(size) else size
    if count is not None and count != 1:
        raise ValueError(f"{what} has shape {tuple(value.shape)}; expected one number, e.g. its .mean()")
    try:
        return float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{what} is {value!r}; expected a real number") from None
