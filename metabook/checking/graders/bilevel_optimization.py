"""Graders of the chapter theory/bilevel_optimization."""

from __future__ import annotations

from typing import Any

import torch

from metabook.checking.compare import Hint, one_of, same_function


def _hypergradient(A, B, g, direct):
    return direct - B.T @ torch.linalg.solve(A, g)


def _inverse_times(A, v, alpha, K, *, first=True, scale=True):
    total = torch.zeros_like(v)
    for k in range(K):
        total = total + (v if first or k else 0)
        v = v - alpha * A @ v
    return alpha * total if scale else total


WRONG = {
    "formula": [
        (lambda A, B, g, direct: -B.T @ torch.linalg.solve(A, g), "The outer loss depends on phi directly, too."),
        (lambda A, B, g, direct: direct + B.T @ torch.linalg.solve(A, g), "The sign: A J + B = 0, so what is J?"),
        (lambda A, B, g, direct: direct - B.T @ (A @ g), "You multiply by A; the inverse is asked for."),
        (lambda A, B, g, direct: direct - B.T @ g, "Without the inverse of A the loop would have taken one step."),
    ],
    "series_code": [
        (
            lambda A, v, alpha, K: _inverse_times(A, v, alpha, K, scale=False),
            "The series for the inverse has a factor alpha before it.",
        ),
        (
            lambda A, v, alpha, K: _inverse_times(A, v, alpha, K, first=False),
            "The first term of the series is v itself, with j = 0.",
        ),
        (lambda A, v, alpha, K: _inverse_times(A, v, alpha, K + 1), "That is one term too many."),
        (
            lambda A, v, alpha, K: alpha * (torch.linalg.matrix_power(torch.eye(len(v)).to(A) - alpha * A, K) @ v),
            "That is one term of the series; the sum of the first K is asked for.",
        ),
    ],
    "choice": [
        ("reverse", "Reverse mode keeps the path, and the path does not fit."),
        ("implicit", "Implicit differentiation answers for the solution, which this loop does not reach."),
        ("truncated", "Most of 5,000 steps would be left out, and the loop has not converged."),
        ("both", "choose one of"),
    ],
    "uphill": [
        ((0.5, 1.0), "1 - alpha h is positive, so both point the same way."),
        ((3.0, 1.0), "Gradient descent does not converge there."),
        ((1.0, 1.0), "The hypergradient is zero there"),
        ((-1.0, 1.0), "both must be positive"),
        (1.5, "a pair of numbers"),
    ],
}


def formula(answer: Any) -> None:
    """one linear system at the solution, and no path."""
    generator = torch.Generator().manual_seed(0)
    cases = []
    for d, m in ((4, 2), (3, 5)):
        root, B, g, direct = (torch.randn(s, generator=generator).double() for s in ((d, d), (d, m), (d,), (m,)))
        cases.append((root @ root.T + torch.eye(d).double(), B, g, direct))
    same_function(answer, _hypergradient, cases, wrong=WRONG["formula"])


def series_code(answer: Any) -> None:
    """an inverse by repetition: each term is the one before, less alpha times A of it."""
    generator = torch.Generator().manual_seed(0)
    cases = []
    for d, K in ((3, 4), (5, 2)):
        root, v = torch.randn(d, d, generator=generator).double(), torch.randn(d, generator=generator).double()
        cases.append((root @ root.T / d + torch.eye(d).double(), v, 0.2, K))
    same_function(answer, _inverse_times, cases, wrong=WRONG["series_code"])


def choice(answer: Any) -> None:
    """three columns carried along the loop cost little memory, and the gradient is that of the loop."""
    one_of(answer, "forward", {word: hint for word, hint in WRONG["choice"] if word != "both"})


def uphill(answer: Any) -> None:
    """a rate between one and two over the curvature: the loop converges, and its first step changes sides."""
    try:
        alpha, h = (float(part) for part in answer)
    except (TypeError, ValueError):
        raise Hint("a pair of numbers is asked for: the rate and the curvature.") from None
    if alpha <= 0 or h <= 0:
        raise Hint("both must be positive.")
    if alpha * h >= 2:
        raise Hint("Gradient descent does not converge there.")
    if alpha * h == 1:
        raise Hint("The hypergradient is zero there: the start does not matter.")
    if alpha * h < 1:
        raise Hint("1 - alpha h is positive, so both point the same way.")
