"""Graders of the chapter optimization/learned_initializations."""

from typing import Any

import torch
from torch import Tensor

from metabook.checking.compare import one_of, same_function


def _layers(sizes: list[int]) -> list[tuple[int, int]]:
    return list(zip(sizes[:-1], sizes[1:], strict=True))


def _numbers(sizes: list[int], rank: int) -> tuple[int, int, int]:
    everything = sum(n * m + m for n, m in _layers(sizes))
    return everything, 2 * sum(sizes[1:-1]), sum(rank * (n + m) for n, m in _layers(sizes))


def _without_biases(sizes: list[int], rank: int) -> tuple[int, int, int]:
    return sum(n * m for n, m in _layers(sizes)), *_numbers(sizes, rank)[1:]


def _with_outputs(sizes: list[int], rank: int) -> tuple[int, int, int]:
    everything, _, low_rank = _numbers(sizes, rank)
    return everything, 2 * sum(sizes[1:]), low_rank


def _scale_only(sizes: list[int], rank: int) -> tuple[int, int, int]:
    everything, _, low_rank = _numbers(sizes, rank)
    return everything, sum(sizes[1:-1]), low_rank


def _whole_change(sizes: list[int], rank: int) -> tuple[int, int, int]:
    return *_numbers(sizes, rank)[:2], sum(n * m for n, m in _layers(sizes))


def _gate(W: Tensor, gamma: Tensor, G: Tensor, inner_lr: float, before: int = 1, after: int = 1) -> Tensor:
    """`s^after W - inner_lr s^(before + after) G`: the scale in the gradient, and the scale on the result."""
    s = (1 + gamma)[:, None]
    return s**after * (W - inner_lr * s**before * G)


WRONG = {
    "twice": [
        ("start", "Is the embedding a sum over the pairs, or a mean?"),
        ("step", "Is the support loss a sum over the points, or a mean?"),
    ],
    "numbers": [
        (_without_biases, "The first number counts the weight matrices. What else does a linear layer have?"),
        (_with_outputs, "The second number counts the outputs as well. Are they hidden units?"),
        (_scale_only, "One number per unit can scale it. What does the shift need?"),
        (_whole_change, "The third number is that of whole matrices. What shapes do U and V have at the given rank?"),
    ],
    "gate": [
        (
            lambda W, gamma, G, inner_lr: _gate(W, gamma, G, inner_lr, before=-1),
            "This steps in the modulated weights, as the folded start does. The shared W has another gradient.",
        ),
        (
            lambda W, gamma, G, inner_lr: _gate(W, gamma, G, inner_lr, before=0),
            "G is the gradient in the modulated weights. What does the chain rule make of it for W?",
        ),
        (
            lambda W, gamma, G, inner_lr: _gate(W, gamma, G, inner_lr, after=0),
            "These are the shared weights after the step. The modulated ones are asked for.",
        ),
    ],
}


def twice(answer: Any) -> None:
    """the embedding and the support loss are means, and a mean does not see repetitions."""
    one_of(answer, "nothing", dict(WRONG["twice"]))


def numbers(answer: Any) -> None:
    """n m + m for each layer, two for each hidden unit, and rank (n + m) for each matrix."""
    cases = [([1, 40, 40, 1], 1), ([2, 5, 3], 2), ([4, 6, 6, 6, 2], 3)]
    same_function(answer, _numbers, cases, wrong=WRONG["numbers"])


def gate(answer: Any) -> None:
    """the scale multiplies the step twice, so unit i moves with the rate alpha s_i^2."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    cases = [(draw(n, m), draw(n), draw(n, m), lr) for n, m, lr in ((3, 2, 0.1), (4, 4, 0.5), (2, 5, 1.0))]
    same_function(answer, _gate, cases, wrong=WRONG["gate"])
