"""Graders of the chapter metric/closed_form_heads."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metabook.checking.compare import Hint, in_range, one_of, same_function
from metabook.metric.closed_form_heads import crammer_singer, ridge


def _ridge_from(z: Tensor, targets: Tensor, start: Tensor, strength: float) -> Tensor:
    return start + ridge(z, targets - z @ start, strength)


_MASKED = torch.tensor(
    [
        [[-3.0, 0.0], [-3.0, 0.4], [-3.3, 0.2]],
        [[0.9, 0.0], [0.9, 0.4], [1.1, 0.2]],
        [[3.0, 0.0], [3.0, 0.4], [3.3, 0.2]],
    ]
)
_TRIANGLE = torch.tensor([[-2.0, -1.0], [0.0, 2.0], [2.0, -1.0]])[:, None] + 0.2 * torch.eye(3)[:, :2]
_SAME = _MASKED[[0, 0, 0]]

WRONG = {
    "start": [
        (
            lambda z, targets, start, strength: ridge(z, targets, strength),
            "This pulls to zero and never looks at `start`.",
        ),
        (
            lambda z, targets, start, strength: start + ridge(z, targets, strength),
            "The start answers already. Which part of the targets is left for the correction to explain?",
        ),
        (
            lambda z, targets, start, strength: ridge(z, targets - z @ start, strength),
            "That is the correction alone. From where is it counted?",
        ),
        (
            lambda z, targets, start, strength: start - ridge(z, targets - z @ start, strength),
            "The correction is taken away where it should be added.",
        ),
    ],
    "units": [
        (10, "The answers hold the embeddings once, but the Gram matrix holds them how often?"),
        (1, "With the same strength the penalty counts for less: the weights can be ten times as short."),
        (0.01, "Longer embeddings make the Gram matrix larger. Should the strength follow it or oppose it?"),
    ],
    "unequal": [
        ("fewer", "For a huge strength the weights of a class are a sum over its examples. Which sum is longer?"),
        ("neither", "That would be so if the weights were means. Are they means or sums?"),
    ],
    "masked": [
        (_TRIANGLE, "ridge regression still names 3 of 3 examples of class 1 rightly"),
        (_SAME, "the support vector machine names only"),
        (_MASKED[:2], "expected (3 classes, 3 examples, 2)"),
    ],
}


def start(answer: Any) -> None:
    """ridge regression on what the start leaves over, added to the start."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    cases = [(draw(n, d), draw(n, 3), draw(d, 3), strength) for n, d, strength in ((4, 6, 0.5), (7, 3, 2.0))]
    same_function(answer, _ridge_from, cases, wrong=WRONG["start"])


def units(answer: Any) -> None:
    """lambda counts in squared units of the embedding, so only its ratio to their squared length has a meaning."""
    for mistake, hint in WRONG["units"]:
        if isinstance(answer, (int, float)) and abs(answer - mistake) < 1e-6:
            raise Hint(hint)
    in_range(answer, 99.99, 100.01, below="The Gram matrix grows by more than this.", above="That is more than needed.")


def unequal(answer: Any) -> None:
    """at a huge lambda the weights of a class are the sum of its embeddings, and more shots make a longer sum."""
    one_of(answer, "more", dict(WRONG["unequal"]))


def masked(answer: Any) -> None:
    """three classes in a row: least squares masks the middle one, the support vector machine does not."""
    try:
        points = torch.as_tensor(answer, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise Hint("one tensor of points is asked for.") from None
    if points.shape != (3, 3, 2):
        raise Hint(f"the points have the shape {tuple(points.shape)}, expected (3 classes, 3 examples, 2).")
    if not points.isfinite().all() or points.abs().max() > 100:
        raise Hint("every coordinate has to be a finite number, of at most 100.")
    z, y = F.pad(points.flatten(0, 1), (0, 1), value=1.0), torch.arange(3).repeat_interleave(3)
    right = int(((z @ (z.T @ crammer_singer(z, y, 3, C=100.0))).argmax(1) == y).sum())
    if right < 9:
        raise Hint(f"the support vector machine names only {right} of 9 examples rightly; keep the classes apart.")
    named = (z @ ridge(z, F.one_hot(y, 3).double(), 0.01)).argmax(1)
    right = int((named[y == 1] == 1).sum())
    if right:
        raise Hint(
            f"ridge regression still names {right} of 3 examples of class 1 rightly. Which straight surface fits "
            "targets that are 0, then 1, then 0?"
        )
