"""Graders of the chapter optimization/learned_learning_rates."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metabook.checking.compare import one_of, same_function


def _rate_gradient(before: Tensor, after: Tensor) -> Tensor:
    return -before * after


def _step_rates(hessian: Tensor) -> Tensor:
    return 1 / torch.linalg.eigvalsh(hessian)


def _left_over(rates: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """What remains of the distance to the centre after steps with the given rates, in whatever order they come."""

    def left(hessian: Tensor) -> Tensor:
        product = identity = torch.eye(len(hessian), dtype=hessian.dtype)
        for rate in torch.as_tensor(rates(hessian), dtype=hessian.dtype):
            product = (identity - rate * hessian) @ product
        return product

    return left


WRONG = {
    "rate_gradient": [
        (
            lambda before, after: before * after,
            "Where both gradients agree, a longer step lowers the loss. Which sign has the derivative then?",
        ),
        (
            lambda before, after: -before * before,
            "This is the slope at a rate of zero. Where does the gradient of the query loss stand after the step?",
        ),
        (
            lambda before, after: -(before * after).sum(),
            "This is the derivative by one rate that all weights share. Here each weight has its own.",
        ),
        (
            lambda before, after: -after,
            "This is how the loss falls when the weight grows. How far does the weight move when its rate grows?",
        ),
    ],
    "negative": [
        ("overshoot", "A step that is too long calls for a shorter one. Why would it call for the other direction?"),
        ("unused", "The derivative by the rate of such a weight is zero. Where does its rate then stay?"),
    ],
    "step_rates": [
        (
            lambda hessian: torch.full((len(hessian),), 2 / torch.linalg.eigvalsh(hessian)[[0, -1]].sum().item()),
            "This is the best rate if it must be the same at every step. Let each step finish one direction.",
        ),
        (
            lambda hessian: 1 / hessian.diagonal(),
            "This is right where the axes of the bowl are those of the weights. Which numbers do not depend on axes?",
        ),
        (
            lambda hessian: torch.linalg.eigvalsh(hessian),
            "Along an eigenvector a step multiplies the distance by 1 - rate * eigenvalue. When is that zero?",
        ),
    ],
}


def rate_gradient(answer: Any) -> None:
    """minus the product of the support gradient before the step and the query gradient after it, weight by weight."""
    generator = torch.Generator().manual_seed(0)
    cases = [tuple(torch.randn(2, *shape, generator=generator, dtype=torch.float64)) for shape in ((3,), (2, 4))]
    same_function(answer, _rate_gradient, cases, wrong=WRONG["rate_gradient"])


def negative(answer: Any) -> None:
    """a rate falls, below zero if need be, while the two gradients of its weight disagree on average over tasks."""
    one_of(answer, "disagreement", dict(WRONG["negative"]))


def step_rates(answer: Any) -> None:
    """one step for each eigenvalue, of length 1 / eigenvalue: each finishes one direction and none comes back."""
    generator, cases = torch.Generator().manual_seed(0), []
    for features in (2, 3):
        root = torch.randn(features, features, generator=generator, dtype=torch.float64)
        cases.append((root @ root.T / features + 0.5 * torch.eye(features, dtype=torch.float64),))
    wrong = [(_left_over(function), hint) for function, hint in WRONG["step_rates"]]
    same_function(_left_over(answer) if callable(answer) else answer, _left_over(_step_rates), cases, wrong=wrong)
