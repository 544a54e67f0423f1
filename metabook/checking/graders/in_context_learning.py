"""Graders of the chapter generative/in_context_learning."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metabook.checking.compare import Hint, in_range, one_of, same_function
from metabook.episode import Set
from metabook.generative.in_context_learning import gradient_steps


def _layer(between: Tensor, value: float) -> tuple[Tensor, Tensor]:
    """P and Q of a layer with a matrix between key and query, which passes on `value` times the y of the examples."""
    d = len(between)
    P, Q = between.new_zeros(d + 1, d + 1), between.new_zeros(d + 1, d + 1)
    P[d, d], Q[:d, :d] = value, between
    return P, Q


def _answer_of(layer: Any) -> Any:
    """The answer of a layer as a function of B and a task: what counts is not P and Q but what they do together."""

    def answer(B: Tensor, x: Tensor, y: Tensor, query: Tensor) -> Tensor:
        pair = layer(B)
        size = (len(B) + 1, len(B) + 1)
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError("return the two matrices (P, Q).")
        P, Q = (torch.as_tensor(part, dtype=B.dtype) for part in pair)
        if P.shape != size or Q.shape != size:
            raise ValueError(f"P and Q have the shapes {tuple(P.shape)} and {tuple(Q.shape)}, expected {size}.")
        tokens = torch.cat([x, y], 1)
        queries = torch.cat([query, torch.zeros_like(query[:, :1])], 1)
        return -(queries + queries @ (P @ (tokens.T @ tokens / len(x)) @ Q).T)[:, -1]

    return answer


def _right(B: Tensor) -> tuple[Tensor, Tensor]:
    return _layer(B.T, -1.0)


def _mean_error(x: Tensor, layers: int) -> float:
    """Squared error on the examples of y = x_1 - x_2, after hand-built layers of the rate 0.9."""
    y = x[:, :1] - x[:, 1:]
    learner = gradient_steps(2, [0.9] * layers).double()
    return (learner.predict(learner.adapt(Set(x, y)), x) - y).square().mean().item()


WRONG = {
    "preconditioned": [
        (lambda B: _layer(B, -1.0), "Is it B or its transpose that stands between a key and a query?"),
        (lambda B: _layer(B.T, 1.0), "minus the last entry"),
        (lambda B: _layer(torch.eye(len(B)).to(B), -1.0), "This is the plain step of rate 1."),
        (lambda B: (B.T, B), "expected (5, 5)"),
    ],
    "examples": [
        (79, "Is the rate at 79 examples already 0.93?"),
        (67, "The noise makes the best step shorter, too."),
        (54, "The dimension alone is not what stands beside n in the formula."),
    ],
    "twice": [
        ("layers", "The layers use the mean over the examples. Does a mean change?"),
        ("transformer", "The softmax shares one unit of attention. Does each value get more of it in all?"),
    ],
    "explode": [
        (torch.ones(8, 2) * torch.tensor([0.5, -0.5]), "it helps: all eigenvalues of S are at most"),
        (torch.tensor([[4.0, -4.0]]).repeat(8, 1), "no entry may lie beyond 3"),
        (torch.ones(4, 2), "expected (8 examples, 2 features)"),
    ],
}


def preconditioned(answer: Any) -> None:
    """the transpose of B between key and query, minus one behind the value."""
    if not callable(answer):
        raise Hint(f"a function is asked for, this is a {type(answer).__name__}.")
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    cases = [(draw(d, d), draw(n, d), draw(n, 1), draw(3, d)) for d, n in ((4, 6), (2, 9))]
    wrong = [(_answer_of(layer), hint) for layer, hint in WRONG["preconditioned"][:1]]
    wrong += [
        (_answer_of(WRONG["preconditioned"][1][0]), "The sign: the answer is read off as minus the last entry."),
        (_answer_of(WRONG["preconditioned"][2][0]), WRONG["preconditioned"][2][1]),
    ]
    same_function(_answer_of(answer), _answer_of(_right), cases, wrong=wrong)


def examples(answer: Any) -> None:
    """six times 0.93 / 0.07, rounded up: the rate nears 1 as the examples outnumber the dimension."""
    for mistake, hint in WRONG["examples"]:
        if isinstance(answer, (int, float)) and answer == mistake:
            raise Hint(hint)
    in_range(
        answer, 80, 80, below="There the best rate is below 0.93.", above="A smaller number of examples is enough."
    )


def twice(answer: Any) -> None:
    """ridge regression adds up and counts twice as much; means and softmax do not count."""
    one_of(answer, "ridge", dict(WRONG["twice"]))


def explode(answer: Any) -> None:
    """an eigenvalue of S beyond 2 / rate: every further layer overshoots by more than it corrects."""
    try:
        x = torch.as_tensor(answer, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise Hint("one tensor of inputs is asked for.") from None
    if x.shape != (8, 2):
        raise Hint(f"the inputs have the shape {tuple(x.shape)}, expected (8 examples, 2 features).")
    if not x.isfinite().all() or x.abs().max() > 3:
        raise Hint("no entry may lie beyond 3 in size.")
    first, last = _mean_error(x, 1), _mean_error(x, 12)
    if last < 10 * first:
        largest = torch.linalg.eigvalsh(x.T @ x / 8)[-1].item()
        if largest < 2 / 0.9:
            raise Hint(
                f"here depth does not harm, it helps: all eigenvalues of S are at most {largest:.2g}. "
                "By what does a step multiply the error along an eigenvector?"
            )
        raise Hint("an eigenvalue is large enough, but is y = x_1 - x_2 anything along its eigenvector?")
