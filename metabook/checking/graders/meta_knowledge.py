"""Graders of the chapter theory/meta_knowledge."""

from __future__ import annotations

from typing import Any

import torch

from metabook.checking.compare import Hint, same_function
from metabook.theory.meta_knowledge import softmax_fisher


def _fisher(theta, x):
    p = torch.sigmoid(theta * x)
    return (p * (1 - p) * x**2).mean()


def _differences(w, edges):
    return w @ (edges.sum(1).diag() - edges) @ w


WRONG = {
    "coin": [
        (lambda theta, x: (torch.sigmoid(theta * x) * x**2).mean(), "The variance of a coin is p (1 - p)."),
        (
            lambda theta, x: (torch.sigmoid(theta * x) * (1 - torch.sigmoid(theta * x))).mean(),
            "The slope of the logit with respect to the weight is x, and it is squared.",
        ),
        (
            lambda theta, x: (torch.sigmoid(theta * x) * (1 - torch.sigmoid(theta * x)) * x).mean(),
            "The slope of the logit with respect to the weight is x, and it is squared.",
        ),
        (
            lambda theta, x: (torch.sigmoid(theta * x) * (1 - torch.sigmoid(theta * x)) * x**2).sum(),
            "You take the sum over the inputs; the expectation is a mean.",
        ),
    ],
    "laplacian": [
        (lambda w, edges: w @ (edges - edges.sum(1).diag()) @ w, "has the wrong sign"),
        (lambda w, edges: 2 * _differences(w, edges), "Each edge counts once: there is a half before the sum."),
        (lambda w, edges: w @ edges @ w, "Those are the products of neighbours; the squares are missing."),
        (lambda w, edges: _differences(w, edges) / 2, "The quadratic form of the Laplacian is the sum with its half."),
    ],
    "symmetric": [
        (("the same", "yes"), "The similarity is symmetric. Is what one task can teach the other?"),
        (("smaller", "no"), "Exchange a and b in the formula."),
        (("unknown", "no"), "Exchange a and b in the formula."),
        ("the same", "a pair of words"),
    ],
    "blind": [
        ((torch.eye(2), torch.eye(2)), "the same rows"),
        ((torch.eye(2), torch.eye(2).flip(0)), "the same rows"),
        ((torch.eye(2), 2 * torch.eye(2)), "for some weights the embeddings differ"),
        ((torch.ones(2), -torch.ones(2)), "of shape (n, 2)"),
    ],
}


def coin(answer: Any) -> None:
    """the variance of the coin, times the square of what the weight is multiplied by."""
    generator = torch.Generator().manual_seed(0)
    cases = [(theta, torch.randn(n, generator=generator)) for theta, n in ((0.7, 5), (-2.0, 3))]
    same_function(answer, _fisher, cases, wrong=WRONG["coin"])


def laplacian(answer: Any) -> None:
    """degrees minus edges: a quadratic form that is zero where neighbours agree."""
    generator = torch.Generator().manual_seed(0)
    cases = []
    for n in (3, 5):
        edges = torch.rand(n, n, generator=generator).triu(1)
        cases.append((torch.randn(n, generator=generator), edges + edges.T))
    same_function(answer, _differences, cases, wrong=WRONG["laplacian"])


def symmetric(answer: Any) -> None:
    """a cosine does not mind the order of its two vectors, and transfer does."""
    if not isinstance(answer, (tuple, list)) or len(answer) != 2 or not all(isinstance(a, str) for a in answer):
        raise Hint("a pair of words is asked for.")
    first, second = (word.strip().lower() for word in answer)
    if first not in ("the same", "smaller", "unknown") or second not in ("yes", "no"):
        raise Hint("choose the first of 'the same', 'smaller', 'unknown', and the second of 'yes', 'no'.")
    if first != "the same":
        raise Hint("Exchange a and b in the formula.")
    if second != "no":
        raise Hint("The similarity is symmetric. Is what one task can teach the other?")


def blind(answer: Any) -> None:
    """what the probe's beliefs do not change with, its Fisher information cannot see."""
    try:
        a, b = (torch.as_tensor(part, dtype=torch.float64) for part in answer)
    except (TypeError, ValueError, RuntimeError):
        raise Hint("a pair of tensors is asked for.") from None
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != 2 or b.shape[1] != 2 or not len(a) or not len(b):
        raise Hint("two tensors of shape (n, 2) are asked for.")
    rows = [sorted(map(tuple, part.tolist())) for part in (a, b)]
    if rows[0] == rows[1]:
        raise Hint("those are the same rows, in another order perhaps.")
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        weight = torch.randn(2, 2, generator=generator).double()
        if not torch.allclose(softmax_fisher(a, weight), softmax_fisher(b, weight), atol=1e-9):
            raise Hint("for some weights the embeddings differ. What changes an input, and leaves p (1 - p) as it is?")
