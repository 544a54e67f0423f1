"""Graders of the chapter theory/hierarchical_bayes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metabook.checking.compare import Hint, one_of, same_function


def _flow(x: Tensor, time: float, noise: float) -> Tensor:
    s, vectors = torch.linalg.eigh(x.T @ x)
    return noise**2 * vectors @ torch.diag(torch.expm1(2 * time * s / len(x)) / s) @ vectors.T


def _flow_without_mean(x: Tensor, time: float, noise: float) -> Tensor:
    return _flow(x, time * len(x), noise)


def _flow_inverse(x: Tensor, time: float, noise: float) -> Tensor:
    return torch.linalg.inv(_flow(x, time, noise))


def _flow_filter(x: Tensor, time: float, noise: float) -> Tensor:
    s, vectors = torch.linalg.eigh(x.T @ x)
    return vectors @ torch.diag(1 - torch.exp(-2 * time * s / len(x))) @ vectors.T


def _flow_short(x: Tensor, time: float, noise: float) -> Tensor:
    return noise**2 * 2 * time / len(x) * torch.eye(x.shape[1], dtype=x.dtype)


def _belief(x: Tensor, covariance: Tensor, noise: float) -> Tensor:
    identity = torch.eye(x.shape[1], dtype=x.dtype)
    return torch.linalg.solve(identity + covariance @ x.T @ x / noise**2, covariance)


def _rate(x: Tensor, covariance: Tensor, noise: float) -> Tensor:
    return len(x) / (2 * noise**2) * _belief(x, covariance, noise)


_X = torch.tensor([[2.0, 0.0], [0.0, 0.5], [2.0, 0.0]], dtype=torch.float64)

WRONG = {
    "twice": [
        ("maml", "The loss of the inner loop is a mean. What does a second copy do to a mean?"),
        ("both", "One of the two looks at a mean over the examples. What does a second copy do to it?"),
        ("neither", "How many examples does the formula of the posterior believe to have seen?"),
    ],
    "flow": [
        (_flow_without_mean, "The loss is a mean over the examples. Where does their number come in?"),
        (_flow_inverse, "This is the precision. Should a short path mean a narrow prior or a wide one?"),
        (_flow_filter, "This is the weight that the examples get. Which prior variance gives them that weight?"),
        (_flow_short, "That is right for short paths. For longer ones, what does (1 - c/k)^-k tend to?"),
        (lambda x, time, noise: _flow(x, time, noise**0.5), "In which power does the noise enter a covariance?"),
    ],
    "exact_rate": [
        (
            _belief,
            "The direction is right. Compare the factors: what stands before X' in a step, and in the posterior?",
        ),
        (
            lambda x, covariance, noise: 2 / len(x) * _belief(x, covariance, noise) / noise**2,
            "The step has a factor 2/n already. Should the rate repeat it or cancel it?",
        ),
        (
            lambda x, covariance, noise: _belief(x, covariance, noise) / (2 * noise**2),
            "The loss is a mean over the examples, the posterior counts a sum.",
        ),
        (
            lambda x, covariance, noise: len(x) / (2 * noise**2) * covariance,
            "This goes as far as the prior is wide, but the examples have narrowed it. Which covariance is left?",
        ),
    ],
    "outlier": [
        (torch.tensor([0.0, 5.0]), "standard deviations from the mean, at most 3 are allowed"),
        (torch.tensor([2.9, 0.0]), "Which of the two directions do the inputs hardly show?"),
        (torch.tensor([0.0, 1.0]), "How large must the bias be to outweigh the variance that is saved?"),
        (torch.tensor([0.0, 1.0, 2.0]), "two weights are asked for"),
    ],
}


def twice(answer: Any) -> None:
    """a doubled set has the same mean loss, so descent does not notice; Bayes takes it for twice the evidence."""
    one_of(answer, "bayes", dict(WRONG["twice"]))


def flow(answer: Any) -> None:
    """the powers become exponentials: (exp(2ts/n) - 1) / s, times the variance of the noise."""
    generator = torch.Generator().manual_seed(0)
    cases = [
        (torch.randn(n, d, generator=generator, dtype=torch.float64), time, noise)
        for n, d, time, noise in ((6, 3, 0.5, 0.7), (4, 4, 0.2, 2.0))
    ]
    same_function(answer, _flow, cases, wrong=WRONG["flow"])


def exact_rate(answer: Any) -> None:
    """A = n V / (2 sigma^2): the posterior covariance, in the units of a step on the mean squared error."""
    generator = torch.Generator().manual_seed(0)
    cases = []
    for n, d, noise in ((3, 4, 0.7), (6, 2, 1.5)):
        x, root = (torch.randn(rows, d, generator=generator, dtype=torch.float64) for rows in (n, d))
        cases.append((x, root @ root.T, noise))
    same_function(answer, _rate, cases, wrong=WRONG["exact_rate"])


def outlier(answer: Any) -> None:
    """a prior helps on average over tasks, and harms the ones that lie far out where the examples say little."""
    try:
        w = torch.as_tensor(answer, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise Hint("a tensor of two weights is asked for.") from None
    if w.shape != (2,):
        raise Hint(f"two weights are asked for, this has the shape {tuple(w.shape)}.")
    if not w.norm() <= 3:
        raise Hint(f"this task lies {w.norm():.2g} standard deviations from the mean, at most 3 are allowed.")
    gain = torch.linalg.solve(torch.eye(2, dtype=w.dtype) + _X.T @ _X, _X.T)
    bayes = (w - gain @ _X @ w).square().sum() + gain.square().sum()
    if bayes <= torch.linalg.pinv(_X).square().sum():
        if abs(w[0]) > abs(w[1]):
            raise Hint("Bayes is still better. Which of the two directions do the inputs hardly show?")
        raise Hint("Bayes is still better. How large must the bias be to outweigh the variance that is saved?")
