"""Graders of the chapter optimization/maml."""

from typing import Any

import torch
from torch import Tensor

from metabook.checking._examples import bowl
from metabook.checking.compare import one_of, same_function


def _meta_gradient(
    start: Tensor, centre: Tensor, hessian: Tensor, inner_lr: float, inner: int, outer: int, sign: int = 1
) -> Tensor:
    """P^outer H P^inner (start - centre), with P = I - inner_lr H: the right one has inner = outer = steps."""
    shrink = torch.eye(len(start), dtype=start.dtype) - inner_lr * hessian
    adapted = torch.linalg.matrix_power(shrink, inner) @ (start - centre)
    return sign * torch.linalg.matrix_power(shrink, outer) @ hessian @ adapted


def _closed_form(start: Tensor, centre: Tensor, hessian: Tensor, inner_lr: float, steps: int) -> Tensor:
    return _meta_gradient(start, centre, hessian, inner_lr, steps, steps)


def _first_order(start: Tensor, centre: Tensor, hessian: Tensor, inner_lr: float) -> Tensor:
    return _meta_gradient(start, centre, hessian, inner_lr, 1, 0)


WRONG = {
    "zero_rate": [
        ("zero", "Nothing is adapted, but is the query loss then constant in the start?"),
        ("support", "Which set does the outer loss look at, however small the inner rate is?"),
    ],
    "closed_form": [
        (
            lambda start, centre, hessian, inner_lr, steps: _meta_gradient(start, centre, hessian, inner_lr, 1, 1),
            "This takes one step whatever `steps` says.",
        ),
        (
            lambda start, centre, hessian, inner_lr, steps: _meta_gradient(start, centre, hessian, inner_lr, steps, 0),
            "This is the query gradient at the adapted weights. How do they move when the start moves?",
        ),
        (
            lambda start, centre, hessian, inner_lr, steps: _meta_gradient(start, centre, hessian, inner_lr, steps, 1),
            "The adapted weights have taken all steps, but the Jacobian counts only one of them.",
        ),
        (
            lambda start, centre, hessian, inner_lr, steps: _meta_gradient(
                start, centre, hessian, inner_lr, steps, steps, sign=-1
            ),
            "This points downhill. A gradient points uphill, away from the centre.",
        ),
    ],
    "first_order": [
        (
            lambda start, centre, hessian, inner_lr: _meta_gradient(start, centre, hessian, inner_lr, 1, 1),
            "This is the exact meta-gradient. Which factor does the first-order one leave out?",
        ),
        (
            lambda start, centre, hessian, inner_lr: _meta_gradient(start, centre, hessian, inner_lr, 0, 0),
            "This is the gradient before the step, which is pooled training. Take the step first.",
        ),
    ],
}


def zero_rate(answer: Any) -> None:
    """with rate zero MAML is pooled training on the queries."""
    one_of(answer, "pooled", dict(WRONG["zero_rate"]))


def closed_form(answer: Any) -> None:
    """P^k H P^k (start - centre): each step shrinks the distance and, once more, the gradient."""
    cases = [(*bowl(n, seed=n), lr, steps) for n, lr, steps in ((2, 0.3, 2), (3, 0.2, 3), (4, 0.1, 0), (2, 0.5, 1))]
    same_function(answer, _closed_form, cases, wrong=WRONG["closed_form"])


def first_order(answer: Any) -> None:
    """the query gradient after the step, H P (start - centre), taken as if the step moved with the start."""
    cases = [(*bowl(n, seed=n), lr) for n, lr in ((2, 0.3), (3, 0.2), (5, 0.5))]
    same_function(answer, _first_order, cases, wrong=WRONG["first_order"])
