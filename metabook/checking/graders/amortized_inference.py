"""Graders of the chapter generative/amortized_inference."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metabook.calibration import expected_calibration_error
from metabook.checking.compare import Hint, in_range, same_function


def _entropy(probs: Tensor) -> Tensor:
    return -torch.special.xlogy(probs, probs).sum(-1)


def _doubt(probs: Tensor) -> Tensor:
    return _entropy(probs.mean(0)) - _entropy(probs).mean(0)


_SHARP = torch.full((100, 5), 0.05).index_fill(1, torch.tensor([0]), 0.8)
_RIGHT = torch.nn.functional.one_hot(torch.arange(100) % 5, 5).float()

WRONG = {
    "meanfield": [
        (
            lambda precision: torch.linalg.inv(precision).diagonal(),
            "Those are the variances of the exact posterior, one weight at a time. A product of Gaussians that has "
            "them puts belief where the exact one has none; which way round does this KL mind that?",
        ),
        (
            lambda precision: precision.diagonal(),
            "A precision is the inverse of a variance.",
        ),
        (
            lambda precision: precision.diagonal() ** -0.5,
            "Those are standard deviations; variances are asked for.",
        ),
    ],
    "cancel": [
        (0.0, "Too sure in one bin and not sure enough in another: does one mistake undo the other?"),
        (0.4, "Each bin counts with its share of the answers."),
    ],
    "doubt": [
        (
            lambda probs: _entropy(probs.mean(0)),
            "That is all the uncertainty. Which part of it would be left if the weights were known?",
        ),
        (
            lambda probs: _entropy(probs).mean(0),
            "That is the part that stays when the weights are known. The other part is asked for.",
        ),
        (
            lambda probs: -_doubt(probs),
            "The average of the draws is less sure than the draws are, so the difference should be positive.",
        ),
    ],
    "useless": [
        (_RIGHT, "its accuracy is 100 %; make it useless, not perfect"),
        (_SHARP, "its calibration error is 0.6"),
        (_SHARP[:50], "expected (100, 5)"),
        (2 * _SHARP, "rows of probabilities that add up to 1"),
    ],
}


def meanfield(answer: Any) -> None:
    """one over the precision, entry by entry: where weights lean on each other, narrower than the posterior."""
    generator = torch.Generator().manual_seed(0)
    roots = [torch.randn(d, d, generator=generator, dtype=torch.float64) for d in (2, 3, 4)]
    cases = [(root @ root.T + torch.eye(len(root), dtype=root.dtype),) for root in roots]
    same_function(answer, lambda precision: 1 / precision.diagonal(), cases, wrong=WRONG["meanfield"])


def cancel(answer: Any) -> None:
    """each bin is off by 0.2, one above and one below, and in absolute value they do not cancel."""
    for mistake, hint in WRONG["cancel"]:
        if isinstance(answer, (int, float)) and abs(answer - mistake) < 1e-3:
            raise Hint(hint)
    in_range(answer, 0.199, 0.201, below="Each bin is off by more than that.", above="No bin is off by that much.")


def doubt(answer: Any) -> None:
    """the entropy of the mean minus the mean of the entropies: what more examples could take away."""
    generator = torch.Generator().manual_seed(0)
    cases = [
        (torch.randn(*shape, generator=generator, dtype=torch.float64).softmax(-1),) for shape in ((6, 4, 3), (9, 2, 5))
    ]
    same_function(answer, _doubt, cases, wrong=WRONG["doubt"])


def useless(answer: Any) -> None:
    """calibrated, and no better than a die: it knows how little it knows."""
    try:
        probs = torch.as_tensor(answer, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise Hint("one tensor of probabilities is asked for.") from None
    if probs.shape != (100, 5):
        raise Hint(f"the probabilities have the shape {tuple(probs.shape)}, expected (100, 5).")
    if not (probs >= 0).all() or (probs.sum(-1) - 1).abs().max() > 1e-4:
        raise Hint("the answer should have rows of probabilities that add up to 1.")
    confidence, named = probs.max(-1)
    right = named == torch.arange(100) % 5
    accuracy = right.double().mean().item()
    if accuracy > 0.21:
        raise Hint(f"its accuracy is {100 * accuracy:.0f} %; make it useless, not perfect or good.")
    error = expected_calibration_error(confidence.clamp(max=1), right).item()
    if error > 0.01:
        raise Hint(f"its calibration error is {error:.2g}. How often is it right, and how sure is it?")
