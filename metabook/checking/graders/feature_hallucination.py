"""Graders of the chapter generative/feature_hallucination."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from metabook.checking.compare import Hint, in_range, one_of, same_function
from metabook.episode import Episode, Set
from metabook.generative.feature_hallucination import GaussianClasses
from metabook.metric.prototypical_networks import PrototypicalNetwork


def _kl(mean: Tensor, log_std: Tensor, prior_mean: Tensor, prior_log_std: Tensor) -> Tensor:
    square = (2 * log_std).exp() + (mean - prior_mean).square()
    return (prior_log_std - log_std + 0.5 * square / (2 * prior_log_std).exp() - 0.5).sum(-1)


def _ridge(x: Tensor, targets: Tensor, covariance: Tensor, strength: float) -> Tensor:
    penalty = len(x) * covariance + strength * torch.eye(x.shape[1], dtype=x.dtype)
    return torch.linalg.solve(x.T @ x + penalty, x.T @ targets)


_WITHIN = torch.tensor([[2.0, 1.55], [1.55, 1.35]], dtype=torch.float64)

WRONG = {
    "kl": [
        (
            lambda mean, log_std, prior_mean, prior_log_std: (
                0.5 * (mean.square() + (2 * log_std).exp() - 1 - 2 * log_std).sum(-1)
            ),
            "That is the divergence from a standard normal prior; this prior has a mean and a deviation of its own.",
        ),
        (
            lambda mean, log_std, prior_mean, prior_log_std: _kl(prior_mean, prior_log_std, mean, log_std),
            "The divergence is not symmetric: under which of the two is the expectation taken?",
        ),
        (
            lambda mean, log_std, prior_mean, prior_log_std: (
                (_kl(mean, log_std, prior_mean, prior_log_std)) / mean.shape[-1]
            ),
            "Independent dimensions: do their divergences add up, or are they averaged?",
        ),
    ],
    "ridge": [
        (
            lambda x, targets, covariance, strength: _ridge(x, targets, covariance / len(x), strength),
            "Every example is surrounded by imagined ones. How often does the covariance come in?",
        ),
        (
            lambda x, targets, covariance, strength: _ridge(x, targets, 0 * covariance, strength),
            "This is ridge regression on the real examples alone.",
        ),
        (
            lambda x, targets, covariance, strength: torch.linalg.solve(x.T @ x + len(x) * covariance, x.T @ targets),
            "The strength of the ridge is still there, whatever is imagined.",
        ),
    ],
    "error": [
        (0.1, "Nine errors are added up and the sum is divided by ten. What is the variance of that?"),
        (1 / 9, "The real example stays, and it counts: the mean is over ten."),
        (0.9, "Dividing by ten divides the variance by a hundred."),
        (0.0, "That is the expected distance as a vector; its square is not zero."),
    ],
    "move": [
        ("noise", "What is the mean of infinitely many noisy copies?"),
        ("differences", "Target minus reference and reference minus target are equally likely. What is their mean?"),
    ],
    "wrong": [
        (_WITHIN, "not worse: the discriminant gains"),
        (torch.eye(2) * 1.675, "not worse: the discriminant gains"),
        (torch.eye(2), "its trace is 2, expected 3.35"),
        (torch.tensor([[2.0, 2.0], [2.0, 1.35]]), "it is not positive definite"),
        (torch.eye(3), "expected (2, 2)"),
    ],
}


def kl(answer: Any) -> None:
    """divergences of independent Gaussians from others, summed over the dimensions."""
    generator = torch.Generator().manual_seed(0)
    cases = [
        tuple(torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(4))
        for shape in ((5,), (3, 2))
    ]
    same_function(answer, _kl, cases, wrong=WRONG["kl"])


def ridge(answer: Any) -> None:
    """imagined examples add n times their covariance to the Gram matrix."""
    generator = torch.Generator().manual_seed(0)

    def case(n: int, d: int, strength: float) -> tuple[Tensor, Tensor, Tensor, float]:
        x, y, root = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((n, d), (n, 3), (d, d)))
        return x, y, root @ root.T, strength

    same_function(answer, _ridge, [case(4, 6, 0.5), case(7, 3, 2.0)], wrong=WRONG["ridge"])


def error(answer: Any) -> None:
    """the variance of a sum of nine errors, divided by ten squared."""
    for mistake, hint in WRONG["error"]:
        if isinstance(answer, (int, float)) and abs(answer - mistake) < 1e-4:
            raise Hint(hint)
    in_range(answer, 0.0899, 0.0901, below="It is larger than this.", above="It is smaller than this.")


def move(answer: Any) -> None:
    """only an imagination whose mean is not the example can move a prototype."""
    one_of(answer, "predictive", dict(WRONG["move"]))


def wrong(answer: Any) -> None:
    """a covariance turned away from the true one makes a discriminant worse than the nearest example."""
    try:
        covariance = torch.as_tensor(answer, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise Hint("one matrix is asked for.") from None
    if covariance.shape != (2, 2):
        raise Hint(f"the covariance has the shape {tuple(covariance.shape)}, expected (2, 2).")
    if not covariance.isfinite().all() or (covariance - covariance.T).abs().max() > 1e-9:
        raise Hint("a covariance is a symmetric matrix of finite numbers.")
    if abs(covariance.trace() - 3.35) > 0.01:
        raise Hint(f"its trace is {covariance.trace():.3g}, expected 3.35: the same total variance as the classes.")
    if torch.linalg.eigvalsh(covariance).min() < 1e-6:
        raise Hint("it is not positive definite: in some direction nothing, or less than nothing, varies.")
    gain = _gain(covariance)
    if gain > -0.05:
        word = "is not worse: the discriminant gains" if gain >= 0 else "is worse, but not by enough: it loses"
        raise Hint(f"this {word} {100 * abs(gain):.0f} points. Which direction should it take for harmless?")


def _gain(covariance: Tensor) -> float:
    """Accuracy with infinitely many imagined examples of this covariance minus that of the nearest example."""
    generator = torch.Generator().manual_seed(0)
    middles = 1.2**0.5 * torch.randn(500, 3, 1, 2, generator=generator, dtype=torch.float64)
    noise = torch.randn(500, 3, 11, 2, generator=generator, dtype=torch.float64)
    x = middles + noise @ torch.linalg.cholesky(_WITHIN).T
    y = torch.arange(3)
    episode = Episode(
        *(Set(p.flatten(1, 2), y.repeat_interleave(p.shape[2]).expand(500, -1)) for p in x.split([1, 10], 2))
    )
    flat = 1e6 * torch.eye(2, dtype=torch.float64)  # nothing is known of the means
    heads = (
        GaussianClasses(torch.zeros(2, dtype=torch.float64), flat, covariance, 3),
        PrototypicalNetwork(nn.Identity(), 3),
    )
    with torch.no_grad():
        imagined, bare = ((h(episode).argmax(-1) == episode.query.y).double().mean().item() for h in heads)
    return imagined - bare
