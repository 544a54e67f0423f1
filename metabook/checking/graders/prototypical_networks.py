"""Graders of the chapter metric/prototypical_networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metabook.checking.compare import Hint, one_of, same_function


def _linear_head(centres: Tensor) -> tuple[Tensor, Tensor]:
    return 2 * centres, -centres.square().sum(-1)


def _shares(distances: Tensor, reach: float) -> Tensor:
    return _with_nobody(distances, reach)[:, :-1]


def _with_nobody(distances: Tensor, reach: float) -> Tensor:
    return (-torch.cat([distances, torch.full_like(distances[:, :1], reach)], dim=1)).softmax(-1)


_CORNERS = torch.tensor([[[1.0, 1.0], [-1.0, -1.0]], [[1.0, -1.0], [-1.0, 1.0]]])  # (classes, shots, 2)
_SURROUNDED = torch.tensor([[[-2.0, 0.0], [2.0, 0.0]], [[0.0, 0.0], [0.0, 0.5]]])

WRONG = {
    "linear_head": [
        (
            lambda centres: (centres, -centres.square().sum(-1)),
            "Expand the square: how often does the product z·c occur?",
        ),
        (
            lambda centres: (2 * centres, centres.square().sum(-1)),
            "A prototype far from the origin: is its class favoured?",
        ),
        (
            lambda centres: (2 * centres, -centres.norm(dim=-1)),
            "That bias is a length; the expanded square holds its square.",
        ),
        (
            lambda centres: (2 * centres.T, -centres.square().sum(-1)),
            "`F.linear` wants one row of weights for each class.",
        ),
    ],
    "shares": [
        (
            lambda distances, reach: (-distances).softmax(-1),
            "Every row sums to one: an example far from all prototypes still counts in full.",
        ),
        (
            lambda distances, reach: (-distances).softmax(-1) * (distances < reach),
            "This forgets an example altogether or not at all; nobody's cluster takes a share like any other.",
        ),
        (
            _with_nobody,
            "The last column is nobody's: no prototype is moved by it.",
        ),
        (
            lambda distances, reach: _with_nobody(-distances, -reach)[:, :-1],
            "These shares grow with the distance.",
        ),
    ],
    "scale": [
        ("nothing", "The answers stay. The probabilities are a softmax of distances, and those grow."),
        ("softer", "Every squared distance becomes 100 times as long: what does a softmax do with large differences?"),
        ("worse", "All distances grow by one factor: does the order of the prototypes change?"),
    ],
    "fail": [
        ((_CORNERS, torch.tensor([[0.9, 0.9]]), torch.tensor([0])), "at least four queries"),
        (
            (_SURROUNDED, _SURROUNDED.flatten(0, 1) + 0.1, torch.tensor([0, 0, 1, 1])),
            "prototypes still get 3 of 4 queries right",
        ),
        (
            (_SURROUNDED, torch.tensor([[0.3, 0.0]] * 4), torch.zeros(4, dtype=torch.int64)),
            "the nearest neighbour gets only 0 of 4 queries right",
        ),
        (
            (_CORNERS, _CORNERS.flatten(0, 1), torch.tensor([0, 0, 1, 1])),
            "the two prototypes coincide",
        ),
    ],
}


def linear_head(answer: Any) -> None:
    """nearest prototype is a linear layer whose weights and biases are written down, not trained."""
    generator = torch.Generator().manual_seed(0)
    cases = [(torch.randn(ways, d, generator=generator, dtype=torch.float64),) for ways, d in [(5, 3), (2, 7)]]
    same_function(answer, _linear_head, cases, wrong=WRONG["linear_head"])


def shares(answer: Any) -> None:
    """an example far from every prototype belongs to nobody, and then it moves no prototype."""
    generator = torch.Generator().manual_seed(0)
    cases = [
        (8 * torch.rand(6, ways, generator=generator, dtype=torch.float64), reach)
        for ways, reach in [(3, 4.0), (5, 1.0), (2, 20.0)]
    ]
    same_function(answer, _shares, cases, wrong=WRONG["shares"])


def scale(answer: Any) -> None:
    """the scale of an embedding is the temperature of its softmax: the same answers, given with more confidence."""
    one_of(answer, "sharper", dict(WRONG["scale"]))


def fail(answer: Any) -> None:
    """a class with two parts, which its mean cannot describe and its examples can."""
    support, queries, labels = _parts(answer)
    right = (labels == _nearest(queries, support.flatten(0, 1)) // support.shape[1]).sum().item()
    if right < len(queries):
        raise Hint(f"the nearest neighbour gets only {right} of {len(queries)} queries right; it should get all.")
    means = support.mean(1)
    if (means[0] - means[1]).norm() < 1e-3:
        raise Hint("the two prototypes coincide, so they do not answer at all; move one so that they answer wrongly.")
    right = (labels == _nearest(queries, means)).sum().item()
    if right:
        raise Hint(
            f"prototypes still get {right} of {len(queries)} queries right; draw the line half-way between "
            "the two means and look at the side on which each query lies."
        )


def _parts(answer: Any) -> tuple[Tensor, Tensor, Tensor]:
    try:
        support, queries, labels = answer
        support, queries = (torch.as_tensor(part, dtype=torch.float64) for part in (support, queries))
        labels = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):
        raise Hint("three tensors are asked for: support, queries and labels.") from None
    if support.ndim != 3 or support.shape[0] != 2 or support.shape[2] != 2 or not support.shape[1]:
        raise Hint(f"support has the shape {tuple(support.shape)}, expected (2 classes, shots, 2).")
    if queries.ndim != 2 or queries.shape[1] != 2 or labels.shape != queries.shape[:1] or len(labels) < 4:
        raise Hint("at least four queries are asked for, of shape (n, 2), with one label each.")
    if sorted(labels.unique().tolist()) not in ([0], [1], [0, 1]):
        raise Hint("the labels of the queries are 0 and 1, the two classes of the support.")
    if not (support.isfinite().all() and queries.isfinite().all()):
        raise Hint("every coordinate has to be a finite number.")
    return support, queries, labels


def _nearest(queries: Tensor, points: Tensor) -> Tensor:
    return torch.cdist(queries, points).argmin(-1)
