"""Graders of the chapter metric/relation_networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metabook.checking.compare import Hint, one_of, same_function


def _pairs(items: Tensor, queries: Tensor) -> Tensor:
    n, m = len(queries), len(items)
    return torch.cat([items.expand(n, *items.shape), queries[:, None].expand(n, m, queries.shape[1])], dim=-1)


def _query_first(items: Tensor, queries: Tensor) -> Tensor:
    return _pairs(items, queries).roll(items.shape[1], -1)


def _transposed(items: Tensor, queries: Tensor) -> Tensor:
    return _pairs(items, queries).transpose(0, 1)


def _plateau(ways: int) -> float:
    return (ways - 1) / ways**2


WRONG = {
    "pairs": [
        (_query_first, "A pair has an order: which of the two comes first in the equation?"),
        (_transposed, "The first dimension counts the queries, the second the items."),
        (lambda items, queries: items - queries[:, None], "A pair holds both embeddings, not their difference."),
    ],
    "plateau": [
        (lambda ways: 0.25, "That is the error of answering one half; is there a better constant?"),
        (lambda ways: 1 / ways, "That is the error of answering 0 to every pair; a better constant lies in between."),
        (lambda ways: 1 / ways**2, "That counts the pairs of two classes only; one pair in `ways` has the target 1."),
        (
            lambda ways: ((ways - 1) / ways) ** 2,
            "That counts the pairs of one class only; the others have the target 0.",
        ),
    ],
    "shots": [
        ("both", "A sum of equally many scores ranks as their mean does. Does that depend on the number?"),
        ("summed scores", "Here g only ever sees one example and one query, whatever the shots."),
        ("neither", "How long is a sum of ten embeddings, beside the sums that g was trained on?"),
    ],
    "unequal": [
        ([0.6, 0.6, 0.6, 0.5], "On average, class 1 has to be the more related one."),
        ([0.1, 0.1, 0.1, 0.9], "The sum does not favour class 0 yet."),
        ([2.0, 2.0, 2.0, 5.0], "A score lies between 0 and 1."),
    ],
}


def pairs(answer: Any) -> None:
    """every query is laid beside every item, so the relation module runs queries times items times."""
    generator = torch.Generator().manual_seed(0)
    cases = [
        (torch.randn(m, d, generator=generator), torch.randn(n, d, generator=generator))
        for m, n, d in [(3, 4, 2), (5, 2, 3)]
    ]
    same_function(answer, _pairs, cases, wrong=WRONG["pairs"])


def plateau(answer: Any) -> None:
    """with many classes, saying the same of every pair costs almost nothing: a flat place to get stuck on."""
    same_function(answer, _plateau, [(2,), (5,), (20,), (60,)], wrong=WRONG["plateau"])


def shots(answer: Any) -> None:
    """the paper's rule is tied to the shots it was trained with; a sum of scores is not."""
    one_of(answer, "summed embeddings", dict(WRONG["shots"]))


def unequal(answer: Any) -> None:
    """a sum grows with the number of examples, a mean does not."""
    try:
        scores = torch.as_tensor(answer, dtype=torch.float64).flatten()
    except (TypeError, ValueError, RuntimeError):
        raise Hint("four numbers are asked for, three of class 0 and one of class 1.") from None
    if scores.shape != (4,):
        raise Hint(f"four scores are asked for, three of class 0 and one of class 1; these are {len(scores)}.")
    if not bool(((scores >= 0) & (scores <= 1)).all()):
        raise Hint("A score lies between 0 and 1.")
    if scores[:3].sum() <= scores[3]:
        raise Hint("The sum does not favour class 0 yet.")
    if scores[:3].max() >= scores[3]:
        raise Hint("On average, class 1 has to be the more related one. Make each example of class 0 less so.")
