"""Graders of the chapter generative/neural_statistician."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from metabook.checking.compare import Hint, in_range, same_function


def _pool(codes: Tensor, keep: Tensor) -> Tensor:
    kept = keep.to(codes)[..., None]  # (sets, examples, 1)
    counts = kept.sum(1)
    return torch.cat([(kept * codes).sum(1) / counts, counts.log()], -1)


def _dropped_as_zeros(codes: Tensor, keep: Tensor) -> Tensor:
    kept = keep.to(codes)[..., None]
    return torch.cat([(kept * codes).mean(1), kept.sum(1).log()], -1)


def _told_the_full_size(codes: Tensor, keep: Tensor) -> Tensor:
    size = torch.full_like(codes[:, 0, :1], codes.shape[1])
    return torch.cat([_pool(codes, keep)[:, :-1], size.log()], -1)


def _told_without_log(codes: Tensor, keep: Tensor) -> Tensor:
    return torch.cat([_pool(codes, keep)[:, :-1], keep.sum(1, keepdim=True).to(codes)], -1)


def _moved(drawings: Tensor, down: int, right: int) -> Tensor:
    """Drawings moved by whole pixels; what leaves the page is lost, and paper comes in."""
    height, width = drawings.shape[-2:]
    reach = max(abs(down), abs(right), 1)
    page = torch.nn.functional.pad(drawings, (reach,) * 4)
    return page[..., reach - down : reach - down + height, reach - right : reach - right + width]


def _strokes() -> Tensor:
    """Five drawings, in the middle of a page of 14 by 14: from each of a few points the pen goes to the next."""
    page, generator = torch.zeros(5, 1, 14, 14), torch.Generator().manual_seed(0)
    for drawing in page[:, 0]:
        y, x = 6, 6
        for y_next, x_next in torch.randint(4, 10, (5, 2), generator=generator).tolist():
            drawing[min(y, y_next) : max(y, y_next) + 1, x] = 1
            drawing[y_next, min(x, x_next) : max(x, x_next) + 1] = 1
            y, x = y_next, x_next
    return page


def _noise(support: Tensor) -> Tensor:
    return (torch.rand(support.shape, generator=torch.Generator().manual_seed(0)) < 0.15).float()


WRONG = {
    "price": [
        (2.3026, "That is the price of a set. How many drawings share it?"),
        (0.0461, "That would be a set of fifty. How large are the sets of this question?"),
        (0.2, "That is the share of one drawing in one nat. How many nats does the set pay?"),
    ],
    "dropout": [
        (_dropped_as_zeros, "A member that was dropped must not count in the divisor either."),
        (_told_the_full_size, "The network is told how many members there were, not how many it sees."),
        (_told_without_log, "The last column should be the logarithm of the number."),
        (lambda codes, keep: _pool(codes, ~keep), "These are the members that were dropped."),
        (lambda codes, keep: _pool(codes, keep)[:, :-1], "has the shape"),
    ],
    "confuse": [
        (([1.0, 2.0], [2.0, 1.0]), "These sets have the same size."),
        (([0.0, 0.0], [-1.0, 0.0, 1.0]), "An encoder may square: the averages of x² differ."),
        (([-1.0, 1.0], [-(2**0.5), 0.0, 0.0, 2**0.5]), "some encoder tells them apart"),
        (([1.0], []), "Both sets need at least one number."),
    ],
    "forge": [
        (lambda support: support, "The audit finds these copies"),
        (lambda support: _moved(support, 1, 0), "The audit finds these copies"),
        (_noise, "is no copy"),
        (lambda support: support[:2], "the shape"),
    ],
}


def price(answer: Any) -> None:
    """log 10, or 2.3 nats, per set, and a fifth of it for each of five drawings."""
    for mistake, hint in WRONG["price"]:
        if isinstance(answer, (int, float)) and abs(answer - mistake) < 0.002:
            raise Hint(hint)
    in_range(
        answer, 0.455, 0.466, below="More. On average a dimension costs the set log(1 / 0.1) nats.",
        above="Less. On average a dimension costs the set log(1 / 0.1) nats.",
    )  # fmt: skip


def dropout(answer: Any) -> None:
    """the mean over the members that are kept, and the logarithm of their number."""
    generator = torch.Generator().manual_seed(0)
    cases = []
    for sets, size, h in ((3, 5, 4), (2, 7, 1)):
        keep = torch.rand(sets, size, generator=generator) < 0.5
        keep[:, 0] = True
        cases.append((torch.randn(sets, size, h, generator=generator, dtype=torch.float64), keep))
    same_function(answer, _pool, cases, wrong=WRONG["dropout"])


def confuse(answer: Any) -> None:
    """the same shares of the same numbers: whatever the encoder, its average is the same."""
    try:
        first, second = (torch.as_tensor(part, dtype=torch.float64).flatten() for part in answer)
    except (TypeError, ValueError, RuntimeError):
        raise Hint("two sets of numbers are asked for, for example ([1.0, 2.0], [3.0]).") from None
    if not len(first) or not len(second):
        raise Hint("Both sets need at least one number.")
    if len(first) == len(second):
        raise Hint("These sets have the same size. A summary that cannot count should be caught not counting.")
    if (first.mean() - second.mean()).abs() > 1e-9:
        raise Hint("Already the averages of x differ, and an encoder may answer with x itself.")
    if (first.square().mean() - second.square().mean()).abs() > 1e-9:
        raise Hint("An encoder may square: the averages of x² differ.")
    values = torch.cat([first, second]).unique()
    shares = [(part[:, None] == values).double().mean(0) for part in (first, second)]
    if (shares[0] - shares[1]).abs().max() > 1e-9:
        raise Hint("Mean and mean square agree, but some encoder tells them apart: compare the share of each number.")


def forge(answer: Any) -> None:
    """copies moved by two pixels or more: the audit moves drawings by one pixel only, and lets them pass."""
    if not callable(answer):
        raise Hint(f"a function is asked for, this is a {type(answer).__name__}.")
    support = _strokes()
    try:
        forged = torch.as_tensor(answer(copy.deepcopy(support))).float()
    except Exception as error:
        raise Hint(f"called with 5 drawings it raised {type(error).__name__}: {error}") from None
    if forged.shape != support.shape:
        raise Hint(f"the result has the shape {tuple(forged.shape)}, expected {tuple(support.shape)}.")

    def nearest(reach: int) -> Tensor:
        """Pixels by which each forgery differs from the nearest support drawing that is moved by up to `reach`."""
        moves = range(-reach, reach + 1)
        moved = torch.cat([_moved(support, down, right) for down in moves for right in moves])
        return (forged[:, None] - moved).abs().flatten(2).sum(-1).amin(1)

    if nearest(1).amin() < 5:
        raise Hint("The audit finds these copies: it forgives a move by one pixel. What does it not forgive?")
    if nearest(4).amax() > 0:
        raise Hint("This is no copy: no support drawing, moved by up to four pixels, equals it.")
