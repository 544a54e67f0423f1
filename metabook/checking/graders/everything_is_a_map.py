"""Graders of the chapter theory/everything_is_a_map."""

from __future__ import annotations

from typing import Any

import torch

from metabook.checking.compare import Hint, in_range, same_function


def _layer(x, own, shared):
    return x @ own + x.mean(0) @ shared


def _beta(support_x, x, strength):
    gram = support_x @ support_x.T + strength * torch.eye(len(support_x)).to(x)
    return x @ support_x.T @ torch.linalg.inv(gram)


WRONG = {
    "size": [
        (1280, "Those are the points. Something else is kept for each class."),
        (6500, "The number of shots does not enter: what is the mean of five points?"),
        (6400, "The number of shots does not enter: what is the mean of five points?"),
        (65, "That is one class of the twenty."),
    ],
    "layer": [
        (
            lambda x, own, shared: x @ own + x.sum(0) @ shared,
            "You take the sum of the elements, the mean is asked for.",
        ),
        (lambda x, own, shared: x @ own, "The elements do not look at the others."),
        (lambda x, own, shared: (x.mean(0) @ shared).expand(len(x), -1), "An element may look at itself, too."),
        (lambda x, own, shared: x @ shared + x.mean(0) @ own, "The two matrices have changed places."),
        (
            lambda x, own, shared: x @ own + x.mean(1, keepdim=True).expand(-1, x.shape[1]) @ shared,
            "Your mean is over the coordinates of an element, not over the elements.",
        ),
    ],
    "beta": [
        (
            lambda s, x, strength: x @ s.T @ torch.linalg.inv(s @ s.T + 1e-9 * torch.eye(len(s)).to(x)),
            "The strength of the penalty has no effect.",
        ),
        (
            lambda s, x, strength: torch.linalg.inv(s @ s.T + strength * torch.eye(len(s)).to(x)) @ s @ x.T,
            "These are the weights for one query in each column; one in each row is asked for.",
        ),
        (lambda s, x, strength: x @ s.T, "The inner products are not weighted yet by the inverse matrix."),
    ],
    "confuse": [
        (([0, 3, 3], [1, 1, 4]), "Those are the sets of the chapter"),
        (([1, 4, 4], [2, 2, 5]), "Those are the sets of the chapter"),
        (([1, 2, 3], [3, 2, 1]), "the same set, in another order"),
        (([1, 2, 3], [0, 2, 4]), "their sums of squares differ"),
        (([1, 2, 3], [1, 2, 4]), "their sums differ"),
        (([1, 2], [2, 1]), "three numbers each"),
    ],
}


def size(answer: Any) -> None:
    """a point and a count for each class, however many examples there were."""
    for mistake, hint in WRONG["size"]:
        if isinstance(answer, (int, float)) and answer == mistake:
            raise Hint(hint)
    in_range(answer, 1300, 1300, below="There are more: twenty classes.", above="There are fewer.")


def layer(answer: Any) -> None:
    """an element sees itself and the mean of all, and whatever the order, the answer follows it."""
    generator = torch.Generator().manual_seed(0)
    shapes = [((5, 3), (3, 3), (3, 3)), ((4, 2), (2, 2), (2, 2))]
    cases = [tuple(torch.randn(shape, generator=generator) for shape in case) for case in shapes]
    same_function(answer, _layer, cases, wrong=WRONG["layer"])


def beta(answer: Any) -> None:
    """what stands before the labels: a learner that is linear in them is a weighted sum of what it was shown."""
    generator = torch.Generator().manual_seed(0)
    cases = [
        (torch.randn(n, 6, generator=generator), torch.randn(q, 6, generator=generator), strength)
        for n, q, strength in ((3, 5, 0.5), (4, 2, 2.0))
    ]
    same_function(answer, _beta, cases, wrong=WRONG["beta"])


def confuse(answer: Any) -> None:
    """two numbers cannot tell three apart: what the sum does not hold, no later layer can know."""
    try:
        a, b = (torch.as_tensor(part, dtype=torch.float64).flatten().sort().values for part in answer)
    except (TypeError, ValueError, RuntimeError):
        raise Hint("a pair of lists of three numbers each is asked for.") from None
    if len(a) != 3 or len(b) != 3:
        raise Hint("three numbers each are asked for.")
    if (a - b).abs().max() < 1e-6:
        raise Hint("that is the same set, in another order perhaps.")
    chapter = torch.tensor([[0.0, 3, 3], [1, 1, 4]], dtype=torch.float64)
    for first, second in ((a, b), (b, a)):
        shift = first[0] - chapter[0, 0]
        if (torch.stack([first, second]) - shift - chapter).abs().max() < 1e-6:
            raise Hint("Those are the sets of the chapter, or a shift of them.")
    if abs(a.sum() - b.sum()) > 1e-6:
        raise Hint(f"their sums differ: {a.sum():.4g} and {b.sum():.4g}.")
    if abs(a.square().sum() - b.square().sum()) > 1e-6:
        raise Hint(f"their sums of squares differ: {a.square().sum():.4g} and {b.square().sum():.4g}.")
