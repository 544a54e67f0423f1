"""Graders of the chapter theory/meta_knowledge."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metabook.checking.compare import Hint, in_range, one_of, same_function


def _fisher(w: Tensor, x: Tensor) -> Tensor:
    p = torch.sigmoid(x @ w)
    return (p * (1 - p)) @ x.square() / len(x)


def _sweep(weights: Tensor, x: Tensor, y: Tensor, adjacency: Tensor, gamma: float, ridge: float) -> Tensor:
    return _refit(weights, x, y, gamma * adjacency, ridge, adjacency.sum(1) * gamma)


def _refit(weights: Tensor, x: Tensor, y: Tensor, messages: Tensor, ridge: float, pull: Tensor | float) -> Tensor:
    identity = torch.eye(x.shape[-1], dtype=x.dtype)
    pull = torch.as_tensor(pull, dtype=x.dtype).expand(len(x))
    own = x.mT @ x + (ridge + pull)[:, None, None] * identity
    return torch.linalg.solve(own, (x.mT @ y[..., None])[..., 0] + messages @ weights)


WRONG = {
    "logistic": [
        (
            lambda w, x: torch.sigmoid(x @ w) @ x.square() / len(x),
            "That is the expectation over one label only. What does the other label contribute?",
        ),
        (
            lambda w, x: len(x) * _fisher(w, x),
            "The sum over the examples grows with their number. Fisher information is an expectation over x.",
        ),
        (
            lambda w, x: (torch.sigmoid(x @ w) * (1 - torch.sigmoid(x @ w))).square() @ x.square() / len(x),
            "Square the slope for each label first, then take the expectation over the label.",
        ),
        (
            lambda w, x: (torch.sigmoid(x @ w) * (1 - torch.sigmoid(x @ w))) @ x.abs() / len(x),
            "The slope of the logit is x. Which power of it stands in a squared slope?",
        ),
    ],
    "louder": [
        (1, "A source with exactly the target's weights surely helps. How far beyond can you go?"),
        (0.5, "At half the weights the source is nearer than zero is. Look for the largest c, not for any."),
        (3, "Then the source is twice as far away as zero is."),
    ],
    "renamed": [
        ("falls", "Follow the proof: which part of the embedding knows the names of the classes?"),
        ("depends", "Permute the rows of the head in the definition. Does the sum over labels change?"),
    ],
    "sweep": [
        (
            lambda w, x, y, a, gamma, ridge: _refit(w, x, y, gamma * a, ridge, 0.0),
            "The neighbours pull, but the task does not feel its own end of the edges: look at the left side.",
        ),
        (
            lambda w, x, y, a, gamma, ridge: _refit(
                w, x, y, gamma * a / a.sum(1, keepdim=True), ridge, a.sum(1) * gamma
            ),
            "Each edge pulls with gamma; the messages are summed, not averaged.",
        ),
        (
            lambda w, x, y, a, gamma, ridge: _refit(w, x, y, a, ridge, a.sum(1)),
            "The strength gamma of an edge does not appear.",
        ),
        (
            lambda w, x, y, a, gamma, ridge: _refit(w, x, y, -gamma * a, ridge, a.sum(1) * gamma),
            "The messages push away from the neighbours. Mind the sign when they change sides.",
        ),
    ],
}


def logistic(answer: Any) -> None:
    """the variance of the label, p (1 - p), times the squared input, in the mean over examples."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    cases = [(draw(d), draw(n, d)) for n, d in ((7, 3), (4, 5))]
    same_function(answer, _fisher, cases, wrong=WRONG["logistic"])


def louder(answer: Any) -> None:
    """c w - w has the length |c - 1| of w, so a source helps while c < 2, whatever the examples and the strength."""
    for mistake, hint in WRONG["louder"]:
        if isinstance(answer, (int, float)) and abs(answer - mistake) < 1e-6:
            raise Hint(hint)
    far = "There the source is farther from the target than zero is, in any norm."
    in_range(answer, 1.999, 2.001, below="A source may be somewhat louder than that.", above=far)


def renamed(answer: Any) -> None:
    """the sum over all labels does not know their names, so the embedding, and every similarity, stays what it was."""
    one_of(answer, "stays", dict(WRONG["renamed"]))


def sweep(answer: Any) -> None:
    """every task refits its examples, pulled by each neighbour with gamma."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    path = torch.diag(torch.ones(3, dtype=torch.float64), 1)
    star = torch.zeros(4, 4, dtype=torch.float64)
    star[0, 1:] = 2.0
    cases = [(draw(4, 3), draw(4, 5, 3), draw(4, 5), a + a.T, 1.7, 0.3) for a in (path, star)]
    same_function(answer, _sweep, cases, wrong=WRONG["sweep"])
