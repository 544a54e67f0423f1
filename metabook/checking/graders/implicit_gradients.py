"""Graders of the chapter optimization/implicit_gradients."""

from typing import Any

import torch
from torch import Tensor

from metabook.checking._examples import bowl
from metabook.checking.compare import one_of, same_function


def _meta_gradient(
    start: Tensor, centre: Tensor, hessian: Tensor, regularization: float, inner: int, outer: int, sign: int = 1
) -> Tensor:
    """R^outer H R^inner (start - centre) with R = lambda (H + lambda I)^-1: the right one has inner = outer = 1."""
    identity = torch.eye(len(start), dtype=start.dtype)
    keep = torch.linalg.inv(identity + hessian / regularization)
    power = torch.linalg.matrix_power
    return sign * power(keep, outer) @ hessian @ power(keep, inner) @ (start - centre)


def _closed_form(start: Tensor, centre: Tensor, hessian: Tensor, regularization: float) -> Tensor:
    return _meta_gradient(start, centre, hessian, regularization, 1, 1)


def _richardson(A: Tensor, b: Tensor, rate: float, steps: int, sign: int = 1, start: int = 0) -> Tensor:
    x = start * b
    for _ in range(steps):
        x = x + sign * rate * (b - A @ x)
    return x


def _system(features: int, seed: int) -> tuple[Tensor, Tensor]:
    start, _, hessian = bowl(features, seed)
    return hessian, start


WRONG = {
    "strong_pull": [
        ("zero", "The pull keeps the weights at the start. Does the query loss stop depending on the start, then?"),
        ("first-order", "That gradient is taken at adapted weights. How far do the weights get under an endless pull?"),
    ],
    "closed_form": [
        (
            lambda start, centre, hessian, regularization: _meta_gradient(start, centre, hessian, regularization, 1, 0),
            "R is needed twice: the query gradient is taken at the solution, and that moves less than the start.",
        ),
        (
            lambda start, centre, hessian, regularization: _meta_gradient(
                start, centre, hessian, 1 / regularization, 1, 1
            ),
            "This shrinks the more, the stronger the pull. Which way round does the strength enter?",
        ),
        (
            lambda start, centre, hessian, regularization: _meta_gradient(
                start, centre, hessian, regularization, 1, 1, sign=-1
            ),
            "This points downhill. A gradient points uphill, away from the centre.",
        ),
    ],
    "richardson": [
        (
            lambda A, b, rate, steps: _richardson(A, b, rate, steps, sign=-1),
            "This walks away from the answer. In which direction is A x too small?",
        ),
        (
            lambda A, b, rate, steps: _richardson(A, b, rate, steps, start=1),
            "This begins at b. The first x is zero.",
        ),
        (
            lambda A, b, rate, steps: _richardson(A, b, rate, 1),
            "This takes one step whatever `steps` says.",
        ),
    ],
}


def strong_pull(answer: Any) -> None:
    """under an endless pull nothing adapts, H / lambda vanishes, and the gradient is that of pooled training."""
    one_of(answer, "pooled", dict(WRONG["strong_pull"]))


def closed_form(answer: Any) -> None:
    """R H R (start - centre): once because the solution is nearer to the centre, once because it moves less."""
    cases = [(*bowl(n, seed=n), strength) for n, strength in ((2, 0.5), (3, 2.0), (4, 0.1))]
    same_function(answer, _closed_form, cases, wrong=WRONG["closed_form"])


def richardson(answer: Any) -> None:
    """x moves by the residual b - A x, which is gradient descent on the quadratic whose minimum solves the system."""
    cases = [(*_system(n, seed=n), rate, steps) for n, rate, steps in ((2, 0.3, 2), (3, 0.2, 5), (4, 0.1, 3))]
    same_function(answer, _richardson, cases, wrong=WRONG["richardson"])
