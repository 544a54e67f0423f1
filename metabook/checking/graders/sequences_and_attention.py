"""Graders of the chapter basics/sequences_and_attention."""

from __future__ import annotations

import math
from typing import Any

import torch

from metabook.checking.compare import Hint, in_range, same_function


def _attend(q, keys, values):
    return (keys @ q / len(q) ** 0.5).softmax(-1) @ values


def _cell(a, c):
    i, f, g, o = a
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def _cell_with(a, c, *, keep="f", candidate=torch.tanh, squash=torch.tanh, order=slice(None)):
    i, f, g, o = a
    f = {"f": f.sigmoid(), "none": torch.ones_like(f), "raw": f}[keep]
    c = f * c + i.sigmoid() * candidate(g)
    return (o.sigmoid() * squash(c), c)[order]


WRONG = {
    "steps": [
        (65, "0.9 to the power of 65 is 0.00106, still above."),
        (10, "That is where the bound falls below about one third."),
        (1000, "One thousandth is the bound, not the number of steps. Take logarithms."),
        (44, "After 44 steps the bound is about one hundredth."),
        (100, "It is below for the first time well before."),
    ],
    "attend": [
        (lambda q, k, v: (k @ q).softmax(-1) @ v, "The scores are not divided by the square root of d."),
        (lambda q, k, v: (k @ q / len(q)).softmax(-1) @ v, "You divide by d, the equation by its square root."),
        (lambda q, k, v: (k @ q / len(k) ** 0.5).softmax(-1) @ v, "d is the length of a key, not the number of keys."),
        (lambda q, k, v: (k @ q / len(q) ** 0.5) @ v, "The scores are no weights yet: they should add up to one."),
        (lambda q, k, v: v[(k @ q).argmax()], "That is the best match alone; the equation takes a mean of all values."),
    ],
    "cell": [
        (lambda a, c: _cell_with(a, c, keep="none"), "Nothing is ever forgotten: where is the gate f?"),
        (lambda a, c: _cell_with(a, c, keep="raw"), "A gate is a number between 0 and 1: f needs its sigmoid."),
        (lambda a, c: _cell_with(a, c, candidate=torch.sigmoid), "What is written may be negative: g takes a tangent."),
        (lambda a, c: _cell_with(a, c, squash=lambda x: x), "The cell is squeezed by a tangent before it is read."),
        (lambda a, c: _cell_with(a, c, order=slice(None, None, -1)), "The hidden state comes first, then the cell."),
    ],
    "loud": [
        ((torch.tensor([1.0, 0.0]), torch.tensor([[9.0, 0.0], [1.0, 0.0]])), "The first key is not the nearer one."),
        ((torch.tensor([1.0, 0.0]), torch.tensor([[1.0, 0.0], [2.0, 0.0]])), "of its weight to the second key"),
        ((torch.tensor([1.0, 0.0]), torch.eye(2)), "of its weight to the second key"),
        ((torch.ones(3), torch.ones(2, 3)), "a query of shape (2,) and keys of shape (2, 2)"),
    ],
}


def steps(answer: Any) -> None:
    """sixty-six steps: the distance at which a bound of 0.9 per step has become one thousandth."""
    for mistake, hint in WRONG["steps"]:
        if isinstance(answer, (int, float)) and answer == mistake:
            raise Hint(hint)
    in_range(
        answer, 66, 66, below="The bound is still above one thousandth there.", above="It is below already before."
    )


def attend(answer: Any) -> None:
    """scores, a softmax, and a mean of the values."""
    generator = torch.Generator().manual_seed(0)
    shapes = [((3,), (5, 3), (5, 2)), ((8,), (4, 8), (4, 1)), ((2,), (7, 2), (7, 2))]
    cases = [tuple(torch.randn(shape, generator=generator) for shape in case) for case in shapes]
    same_function(answer, _attend, cases, wrong=WRONG["attend"])


def cell(answer: Any) -> None:
    """write, keep, read: three gates, and a path on which nothing has to shrink."""
    generator = torch.Generator().manual_seed(0)
    cases = [(torch.randn(4, n, generator=generator), torch.randn(n, generator=generator)) for n in (3, 5)]
    same_function(answer, _cell, cases, wrong=WRONG["cell"])


def loud(answer: Any) -> None:
    """an inner product grows with the length of a key, so a loud key is heard before a near one."""
    try:
        query, keys = (torch.as_tensor(part, dtype=torch.float64) for part in answer)
    except (TypeError, ValueError, RuntimeError):
        raise Hint("a pair of tensors is asked for: the query and the two keys.") from None
    if query.shape != (2,) or keys.shape != (2, 2):
        raise Hint("a query of shape (2,) and keys of shape (2, 2) are asked for.")
    near, far = (keys - query).norm(dim=-1)
    if not near < far:
        raise Hint("The first key is not the nearer one.")
    weight = (keys @ query / math.sqrt(2)).softmax(-1)[1].item()
    if not weight >= 0.9:
        raise Hint(f"attention gives {weight:.2f} of its weight to the second key. What makes an inner product large?")
