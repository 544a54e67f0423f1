"""Graders of the chapter metric/matching_networks."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metabook.checking.compare import Hint, one_of, same_function


def _votes(weights: Tensor, y: Tensor, ways: int) -> Tensor:
    return weights @ F.one_hot(y, ways).to(weights)


def _log_vote(similarities: Tensor, y: Tensor, ways: int) -> Tensor:
    return _votes(similarities.softmax(-1), y, ways).log()


def _best_matches(similarities: Tensor, y: Tensor, ways: int) -> Tensor:
    return torch.stack([similarities[:, y == k].amax(-1) for k in range(ways)], -1)


def _smallest_scale(ways: int, p: float) -> float:
    return math.log((ways - 1) * p / (1 - p)) / 2


_TWIN = [[1.0, 0.0]]

WRONG = {
    "vote": [
        (
            lambda similarities, y, ways: _votes(similarities.softmax(-1), y, ways),
            "These are the probabilities; their logarithm is asked for.",
        ),
        (
            lambda similarities, y, ways: _votes(similarities.log_softmax(-1), y, ways),
            "The logarithm of a sum is not the sum of the logarithms.",
        ),
        (
            lambda similarities, y, ways: _votes(similarities.exp(), y, ways).log(),
            "Do the probabilities of a query add up to one?",
        ),
        (
            lambda similarities, y, ways: _best_matches(similarities, y, ways).log_softmax(-1),
            "Here only the best match of each class votes; what about its other examples?",
        ),
        (
            lambda similarities, y, ways: (
                _votes(similarities.softmax(-1), y, ways) / F.one_hot(y, ways).sum(0).clamp(min=1)
            ).log(),
            "You divide by the number of examples of a class; a vote counts every one of them.",
        ),
    ],
    "scale": [
        (
            lambda ways, p: 2 * _smallest_scale(ways, p),
            "How far apart can two cosines be?",
        ),
        (
            lambda ways, p: math.log(ways * p / (1 - p)) / 2,
            "How many examples are on the wrong side?",
        ),
        (
            lambda ways, p: math.log(p / (1 - p)) / 2,
            "That answer does not depend on the ways. What do all the other examples add to the denominator?",
        ),
        (lambda ways, p: 1 / (1 + (ways - 1) * math.exp(-2 * p)), "That is the ceiling at a scale; solve it for"),
    ],
    "copies": [
        ("sharper", "A softmax gets sharper when differences grow. Which difference of two similarities has grown?"),
        ("softer", "Each weight is halved indeed. How many examples does each class have now?"),
    ],
    "outvote": [
        (
            (torch.tensor([*_TWIN, [0.0, 1.0], [0.0, -1.0]]), torch.tensor([0, 1, 1])),
            "the vote still gives class 0 58 %",
        ),
        (
            (torch.tensor([*_TWIN, [1.0, 0.1], [1.0, -0.1]]), torch.tensor([0, 1, 1])),
            "an example of class 1 lies in the half-plane of the query",
        ),
        (
            (torch.tensor([*_TWIN, *[[-1.0, 0.0]] * 8]), torch.tensor([0] + [1] * 8)),
            "at most six examples are allowed",
        ),
        (
            (torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, -1.0], [0.0, 2.0]]), torch.tensor([0, 1, 1, 1])),
            "has no direction",
        ),
    ],
}


def vote(answer: Any) -> None:
    """a support set is a classifier as soon as something says how alike two inputs are."""
    generator = torch.Generator().manual_seed(0)
    cases = [
        (torch.randn(4, len(y), generator=generator, dtype=torch.float64), torch.tensor(y), ways)
        for y, ways in [([0, 1, 2, 0, 0], 3), ([1, 0, 1, 1], 2)]
    ]
    same_function(answer, _log_vote, cases, wrong=WRONG["vote"])


def scale(answer: Any) -> None:
    """the scale that is needed grows only with the logarithm of the ways."""
    same_function(answer, _smallest_scale, [(5, 0.9), (20, 0.99), (60, 0.5)], wrong=WRONG["scale"])


def copies(answer: Any) -> None:
    """only the shares of the classes count in a vote, not the number of examples."""
    one_of(answer, "nothing", dict(WRONG["copies"]))


def outvote(answer: Any) -> None:
    """a crowd that says nothing about the query outvotes its twin."""
    support, y = _parts(answer)
    toward = F.cosine_similarity(support, support[:1])
    if (toward[y == 1] > 1e-6).any():
        raise Hint("an example of class 1 lies in the half-plane of the query; its cosine should be zero or negative.")
    p = _votes(toward.softmax(-1), y, 2)[0].item()
    if p >= 0.5:
        raise Hint(f"the vote still gives class 0 {100 * p:.0f} %; what weight has an example at a right angle?")


def _parts(answer: Any) -> tuple[Tensor, Tensor]:
    try:
        support, y = answer
        support, y = torch.as_tensor(support, dtype=torch.float64), torch.as_tensor(y)
    except (TypeError, ValueError, RuntimeError):
        raise Hint("two tensors are asked for: support and y.") from None
    if support.ndim != 2 or support.shape[1] != 2 or y.shape != support.shape[:1] or len(y) < 2:
        raise Hint(f"support should be (n, 2) and y (n,); these are {tuple(support.shape)} and {tuple(y.shape)}.")
    if len(y) > 6:
        raise Hint(f"these are {len(y)} examples; at most six examples are allowed.")
    if y[0] != 0 or sorted(y.unique().tolist()) != [0, 1]:
        raise Hint("the labels are 0 and 1, both occur, and row 0, the query's twin, is of class 0.")
    if not support.isfinite().all() or (support.norm(dim=-1) == 0).any():
        raise Hint("an example at the origin has no direction, and so no cosine; move it, and keep all numbers finite.")
    return support, y
