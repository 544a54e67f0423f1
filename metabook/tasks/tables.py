"""A table with classes as a task: split several times, described in numbers.

The tables of `metabook.data.pmlb` become tasks here.  What is learned from one is judged on rows that no split has
shown, in a unit that makes tables with few and with many classes comparable.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 2000  # of a larger table, that many are drawn


class Splits(NamedTuple):
    """One table, split several times; the columns of each split are standardised by its training rows.

    Attributes:
        train_x, train_y: `(splits, rows, columns)` and `(splits, rows)`.
        validation_x, validation_y: the same, other rows.
        test_x, test_y: the same; in every split the same rows.
        classes: number of classes.
    """

    train_x: Tensor
    train_y: Tensor
    validation_x: Tensor
    validation_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int

    @property
    def entropy(self) -> Tensor:
        """`(splits,)`: the cross-entropy, in nats, of a guess that knows the class frequencies and nothing else."""
        share = F.one_hot(self.train_y, self.classes).to(self.train_x).mean(1)
        return torch.special.entr(share).sum(-1)


def split(x: Tensor, y: Tensor, fold: int = 0, seeds: int = 8, rows: int = ROWS) -> Splits:
    """Hold out one quarter of the rows for the test, and divide the rest anew for each seed, two to one.

    Args:
        x: `(rows, columns)`, nan where a value is missing; it is replaced by the column's mean.
        y: `(rows,)` int64 classes.
        fold: which quarter is held out, 0 to 3; those of two folds share no row.
        seeds: number of splits.
        rows: most rows used; they are drawn at random, the same ones in every fold.

    Raises:
        ValueError: a fold that does not exist, or fewer than 12 rows.
    """
    if not 0 <= fold < 4:
        raise ValueError(f"fold must be 0, 1, 2 or 3, got {fold}")
    if len(y) < 12:
        raise ValueError(f"the table has {len(y)} rows; at least 12 are needed for three parts")
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))[:rows].to(y.device)
    quarter = len(order) // 4
    test = order[fold * quarter : (fold + 1) * quarter]
    rest = torch.cat([order[: fold * quarter], order[(fold + 1) * quarter :]])
    shuffled = torch.stack(
        [rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(s)).to(y.device)] for s in range(seeds)]
    )
    cut = 2 * len(rest) // 3
    parts = [shuffled[:, :cut], shuffled[:, cut:], test.expand(seeds, -1)]
    mean = x[parts[0]].nanmean(1, keepdim=True).nan_to_num()  # (seeds, 1, columns)
    centred = [(x[part] - mean).nan_to_num() for part in parts]
    scale = centred[0].square().mean(1, keepdim=True).sqrt()
    scale = torch.where(scale > 1e-6 * (1 + mean.abs()), scale, torch.inf)  # a constant column becomes zero
    train, validation, held = (part / scale for part in centred)
    ys = [y[part] for part in parts]
    return Splits(train, ys[0], validation, ys[1], held, ys[2], int(y.max()) + 1)


def relative(loss: Tensor, splits: Splits) -> Tensor:
    """Cross-entropy `(..., seeds)` in units of the label entropy, at most 1: who knows less may guess instead."""
    return (loss / splits.entropy.to(loss)).clamp(max=1)


def meta_features(splits: Splits) -> dict[str, float]:
    """A task as numbers, from its training and validation rows alone; each is a mean over the splits.

    Size and shape; classes and their balance; binary columns; heavy tails; the spectrum of the correlation matrix,
    which is what conditions the first layer; and three landmarkers, the errors of learners that need no optimiser,
    relative to guessing the most frequent class.
    """
    x, y, xv, yv = splits.train_x, splits.train_y, splits.validation_x, splits.validation_y
    seeds, rows, columns = x.shape
    one_hot = F.one_hot(y, splits.classes).to(x)  # (seeds, rows, classes)
    share = one_hot.mean(1)  # (seeds, classes)
    entropy = splits.entropy.mean().item()
    spectrum = torch.linalg.eigvalsh(x.mT @ x / rows).clamp(min=0)  # (seeds, columns), increasing
    spread = spectrum.sum(-1).clamp(min=1e-12)
    low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    binary = ((x == low) | (x == high)).all(1).to(x)  # constant columns count as binary
    guess = (yv != share.argmax(-1, keepdim=True)).to(x).mean(-1).clamp(min=1 / yv.shape[1])

    def landmark(scores: Tensor) -> float:  # (seeds, rows, classes)
        return ((scores.argmax(-1) != yv).to(x).mean(-1) / guess).mean().item()

    ridge = torch.linalg.solve(x.mT @ x + torch.eye(columns).to(x), x.mT @ (one_hot - share[:, None]))
    centres = (one_hot.mT @ x) / one_hot.sum(1).clamp(min=1)[..., None]
    centres = centres.masked_fill((one_hot.sum(1) == 0)[..., None], 1e6)  # a class that is not there is far away
    nearest = torch.cdist(xv, x).argmin(-1)  # (seeds, rows)
    return {
        "log rows": math.log(rows),
        "log columns": math.log(columns),
        "log classes": math.log(splits.classes),
        "label entropy": entropy,
        "imbalance": 1 - entropy / math.log(splits.classes),
        "binary columns": binary.mean().item(),
        "tails": x.square().square().mean(1).clamp(min=1).log().mean().item(),
        "first eigenvalue": (spectrum[:, -1] / spread).mean().item(),
        "effective rank": (spread.square() / spectrum.square().sum(-1).clamp(min=1e-12) / columns).mean().item(),
        "linear error": landmark(share[:, None] + xv @ ridge),
        "nearest-mean error": landmark(-torch.cdist(xv, centres)),
        "nearest-neighbour error": landmark(one_hot.gather(1, nearest[..., None].expand(-1, -1, splits.classes))),
    }
