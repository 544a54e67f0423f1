"""Graders of the chapter basics/losses_and_optimizers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metabook.basics.losses_and_optimizers import adam
from metabook.checking.compare import Hint, in_range, one_of, same_function


def _logits_gradient(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.softmax(1) - F.one_hot(labels, logits.shape[1])) / len(labels)


def _adagrad(gradient: Tensor, total: Tensor, lr: float) -> tuple[Tensor, Tensor]:
    total = total + gradient**2
    return -lr * gradient / (total.sqrt() + 1e-10), total


def _changed(sign: int = 1, lagging: bool = False, root: bool = True, keep: bool = True) -> Any:
    """AdaGrad with one mistake."""

    def update(gradient: Tensor, total: Tensor, lr: float) -> tuple[Tensor, Tensor]:
        after = total + gradient**2 if keep else gradient**2
        scale = total if lagging else after
        return -sign * lr * gradient / ((scale.sqrt() if root else scale) + 1e-10), after

    return update


WRONG = {
    "logits": [
        (
            lambda logits, labels: logits.softmax(1) - F.one_hot(labels, logits.shape[1]),
            "Right for the sum over examples. The loss is their mean.",
        ),
        (
            lambda logits, labels: (F.one_hot(labels, logits.shape[1]) - logits.softmax(1)) / len(labels),
            "This points downhill. Which way does a gradient point?",
        ),
        (
            lambda logits, labels: logits.softmax(1) / len(labels),
            "This pushes every logit down. What pulls the right one up?",
        ),
        (
            lambda logits, labels: (logits.softmax(0) - F.one_hot(labels, logits.shape[1])) / len(labels),
            "The probabilities of one example have to sum to 1: along which dimension?",
        ),
    ],
    "edge": [
        (0.02, "That is the rate that reaches the bottom in one step. How far beyond it does a step still shrink?"),
        (
            0.01,
            "Half of the curvature's inverse. A step multiplies the distance by 1 - lr * 50: when is that below -1?",
        ),
        (100, "The edge is an inverse of the curvature."),
        (4, "The flat direction allows this rate, but the steep one has to survive it as well."),
    ],
    "units": [
        ("gradient descent", "Its step is the gradient times the rate. What happens to the gradient?"),
        ("momentum", "Its velocity is a sum of gradients. What happens to each of them?"),
    ],
    "adagrad": [
        (_changed(sign=-1), "This walks uphill: the step is to be added."),
        (
            _changed(lagging=True),
            "The first step divides by the root of nothing. Add the new square before you divide.",
        ),
        (_changed(root=False), "A gradient over a squared gradient: in which unit is the step?"),
        (_changed(keep=False), "The state forgets: it should be the sum of all squares so far."),
    ],
    "fool": [
        ([10.0, -1.0], "Adam walks down"),
        ([1.0, 1.0], "Adam walks down"),
        ([1.0, -2.0], "sum to a positive number"),
        ([0.1] * 30, "at most 20"),
    ],
}


def logits(answer: Any) -> None:
    """probabilities minus labels, over the number of examples."""
    generator = torch.Generator().manual_seed(0)
    cases = [
        (2 * torch.randn(n, k, generator=generator, dtype=torch.float64), torch.arange(n) % k)
        for n, k in ((5, 3), (4, 6))
    ]
    same_function(answer, _logits_gradient, cases, wrong=WRONG["logits"])


def edge(answer: Any) -> None:
    """beyond 2 / (largest curvature) every step makes the steep direction worse."""
    for mistake, hint in WRONG["edge"]:
        if isinstance(answer, (int, float)) and abs(answer - mistake) < 1e-9:
            raise Hint(hint)
    in_range(answer, 0.03999, 0.04001, below="A larger rate still converges.", above="Here it diverges already.")


def units(answer: Any) -> None:
    """Adam divides the gradient by its own size, so its unit cancels; only eps remembers it."""
    one_of(answer, "adam", dict(WRONG["units"]))


def adagrad(answer: Any) -> None:
    """the gradient over the root of the sum of all its squares."""
    generator = torch.Generator().manual_seed(0)
    cases = []
    for lr in (0.1, 0.5):
        gradient = torch.randn(4, generator=generator, dtype=torch.float64)
        cases.append((gradient, torch.rand(4, generator=generator, dtype=torch.float64), lr))
    same_function(answer, _adagrad, cases, wrong=WRONG["adagrad"])


def fool(answer: Any) -> None:
    """rare large gradients are divided by a root that the small ones have already brought down."""
    try:
        period = torch.as_tensor(answer, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise Hint("a list of gradients is asked for.") from None
    if period.ndim != 1 or not 2 <= len(period) <= 20:
        raise Hint(f"one list of 2 to at most 20 gradients is asked for, this has the shape {tuple(period.shape)}.")
    if not period.isfinite().all() or period.abs().max() > 1000:
        raise Hint("every gradient has to be finite, and of at most 1000.")
    if period.sum() <= 0:
        raise Hint(
            f"the gradients should sum to a positive number, so that down is the right way; it is {period.sum():.3g}."
        )
    optimizer, x = adam(0.01, (0.0, 0.5)), torch.zeros((), dtype=torch.float64)
    state = optimizer.init(x)
    for t in range(2000):
        step, state = optimizer.update(period[t % len(period)], state)
        x = x + step
    if x < 1:
        raise Hint(
            f"Adam walks down or stays, to {x.item():.3g} after 2000 steps. How soon does it forget the square of a "
            "gradient, and how much of the way do the others get until it comes back?"
        )
