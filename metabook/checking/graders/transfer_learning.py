"""Graders of the chapter basics/transfer_learning."""

from __future__ import annotations

from typing import Any

import torch

from metabook.checking.compare import Hint, in_range, same_function

_POINTS = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
_CLASSES = torch.tensor([-1.0, -1.0, 1.0, 1.0])


def _gradient(x, y, w, start, strength):
    return x.T @ (x @ w - y) / len(y) + strength * (w - start)


WRONG = {
    "harm": [
        ((True, False, False), "The first source is at distance 3 from the truth, zero at distance 5."),
        ((False, True, False), "The second source is exactly as far from the truth as zero is."),
        ((False, False, True), "Compute the distance of the third source from the truth, not from zero."),
        ((False, True, True), "The second source is exactly as far from the truth as zero is."),
        ((True, True, True), "What counts is the distance from the truth, beside that of zero."),
    ],
    "l2sp": [
        (
            lambda x, y, w, start, strength: x.T @ (x @ w - y) / len(y) + strength * w,
            "That is weight decay: it pulls to zero. Where should it pull?",
        ),
        (
            lambda x, y, w, start, strength: 2 * x.T @ (x @ w - y) / len(y) + strength * (w - start),
            "The objective has half of the mean square.",
        ),
        (
            lambda x, y, w, start, strength: x.T @ (x @ w - y) + strength * (w - start),
            "The loss is the mean over the examples, you take their sum.",
        ),
        (
            lambda x, y, w, start, strength: x.T @ (x @ w - y) / len(y) + strength * (start - w),
            "The pull has the wrong sign: a step against it leads away from the start.",
        ),
        (
            lambda x, y, w, start, strength: x.T @ (x @ w - y) / len(y) + 2 * strength * (w - start),
            "The objective has half of the squared distance.",
        ),
    ],
    "steps": [
        (20, "After 20 steps 1.15 per cent is left."),
        (44, "Each step keeps 1 - 0.1 * 2 of it, not 1 - 0.1."),
        (3, "That many steps leave half of it."),
        (5, "What is left after a step is 0.8, not 0.2 * 2."),
    ],
    "blind": [
        ((torch.eye(2), torch.zeros(2, 2)), "the second layer is constant"),
        ((torch.tensor([[0.0, 1.0], [0.0, -1.0]]), torch.eye(2)), "no head can do it with the first layer"),
        ((torch.eye(2), torch.tensor([[1.0, 1.0], [1.0, -1.0]])), "a head can do it with the second layer, too"),
        ((torch.eye(3), torch.eye(2)), "two matrices of shape (2, 2)"),
    ],
}


def harm(answer: Any) -> None:
    """none of them: what counts is the distance from the truth beside that of zero, and as far is no harm."""
    if not isinstance(answer, (tuple, list)) or len(answer) != 3:
        raise Hint("three booleans are asked for, one for each source.")
    given = tuple(bool(part) for part in answer)
    for mistake, hint in WRONG["harm"]:
        if given == mistake:
            raise Hint(hint)
    if any(given):
        raise Hint("What counts is the distance from the truth, beside that of zero.")


def l2sp(answer: Any) -> None:
    """the gradient of the examples, and a spring to the start."""
    generator = torch.Generator().manual_seed(0)
    cases = [
        (*(torch.randn(shape, generator=generator) for shape in ((n, d), (n,), (d,), (d,))), strength)
        for n, d, strength in ((5, 3, 0.3), (2, 4, 1.5))
    ]
    same_function(answer, _gradient, cases, wrong=WRONG["l2sp"])


def steps(answer: Any) -> None:
    """twenty-one steps, in each of which four fifths remain."""
    for mistake, hint in WRONG["steps"]:
        if isinstance(answer, (int, float)) and answer == mistake:
            raise Hint(hint)
    in_range(answer, 21, 21, below="More than one per cent is left there.", above="It is below one per cent before.")


def blind(answer: Any) -> None:
    """what a frozen layer has thrown away no head can bring back."""
    try:
        useful, useless = (torch.as_tensor(part, dtype=torch.float32) for part in answer)
    except (TypeError, ValueError, RuntimeError):
        raise Hint("a pair of tensors is asked for.") from None
    if useful.shape != (2, 2) or useless.shape != (2, 2):
        raise Hint("two matrices of shape (2, 2) are asked for.")
    if not _separable(useful):
        raise Hint("no head can do it with the first layer: do the features of the two classes differ?")
    if (_features(useless) - _features(useless)[0]).abs().max() < 1e-6:
        raise Hint("the second layer is constant on the four points; it should see something, only the wrong thing.")
    if _separable(useless):
        raise Hint("a head can do it with the second layer, too: what does it see of the first coordinate?")


def _features(weight: torch.Tensor) -> torch.Tensor:
    return (_POINTS @ weight.T).relu()


def _separable(weight: torch.Tensor) -> bool:
    """Whether some line separates the classes: a perceptron finds it, if there is one."""
    z = torch.cat([_features(weight), torch.ones(4, 1)], dim=1)
    z = z / z.norm(dim=1, keepdim=True)
    w = torch.zeros(3)
    for _ in range(4000):
        wrong = (_CLASSES * (z @ w) <= 0).nonzero()
        if not len(wrong):
            return True
        w = w + _CLASSES[wrong[0, 0]] * z[wrong[0, 0]]
    return False
