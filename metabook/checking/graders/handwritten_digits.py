"""Graders of the chapter basics/handwritten_digits."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metabook.basics.handwritten_digits import accuracy, dense_network, fit
from metabook.checking.compare import Hint, in_range, same_function
from metabook.data.dataset import Dataset


def _thin(h: Tensor, kept: Tensor, p: float) -> Tensor:
    return h * kept / (1 - p)


def _valid(x: Tensor, w: Tensor) -> Tensor:
    return F.conv2d(x[None, None], w[None, None])[0, 0]


def _stamp(images: Tensor, labels: Tensor) -> Tensor:
    stamped = images.clone()
    stamped[:, :, 0] = 0
    rows = torch.arange(len(images))
    for column in (0, 1):
        stamped[rows, 0, 0, 2 * labels + column] = 255
    return stamped


def _same_mark(images: Tensor, labels: Tensor) -> Tensor:
    return _stamp(images, torch.zeros_like(labels))


def _erased(images: Tensor, labels: Tensor) -> Tensor:
    return _stamp(torch.zeros_like(images), labels)


WRONG = {
    "thin": [
        (lambda h, kept, p: h * kept, "The mean of a unit has shrunk. What brings it back?"),
        (lambda h, kept, p: h * kept * (1 - p), "Fewer units are left. Should the others grow or shrink?"),
        (lambda h, kept, p: h * kept / p, "Divide by the probability that a unit stays, not that it goes."),
        (lambda h, kept, p: h * (1 - kept) / (1 - p), "This keeps what should go."),
    ],
    "valid": [
        (
            lambda x, w: _valid(x, w.flip(0, 1)),
            "The weights are turned round: w[0, 0] meets the pixel at the upper left.",
        ),
        (lambda x, w: _valid(x, w.T), "Rows and columns of the weights are exchanged."),
        (lambda x, w: F.conv2d(x[None, None], w[None, None], padding=1)[0, 0], "expected"),
    ],
    "winner": [
        (0, "The best of 20 was not chosen for nothing. How far does one accuracy scatter?"),
        (0.44, "That is how far one accuracy scatters. You report the largest of 20."),
        (2.0, "One accuracy scatters by less than half a point. How many of these is the largest of 20 above?"),
    ],
    "shortcut": [
        (_same_mark, "does the mark give the digit away?"),
        (lambda images, labels: images, "no image is changed"),
        (_erased, "below the top row"),
    ],
}


def thin(answer: Any) -> None:
    """what stays is divided by its probability to stay, so the mean is kept."""
    generator = torch.Generator().manual_seed(0)
    cases = []
    for p in (0.2, 0.6):
        h = torch.rand(5, 7, generator=generator, dtype=torch.float64)
        cases.append((h, (torch.rand(5, 7, generator=generator) >= p).double(), p))
    same_function(answer, _thin, cases, wrong=WRONG["thin"])


def valid(answer: Any) -> None:
    """nine moved parts of the image, each times its weight."""
    generator = torch.Generator().manual_seed(0)
    cases = [
        (torch.randn(*size, generator=generator).double(), torch.randn(3, 3, generator=generator).double())
        for size in ((5, 5), (6, 4))
    ]
    same_function(answer, _valid, cases, wrong=WRONG["valid"][:2])


def winner(answer: Any) -> None:
    """the largest of 20 equal accuracies lies almost two of their standard deviations above their mean."""
    for mistake, hint in WRONG["winner"]:
        if isinstance(answer, (int, float)) and abs(answer - mistake) < 0.03:
            raise Hint(hint)
    in_range(answer, 0.6, 1.0, below="The scatter of one accuracy is 0.44 points; the best of 20 lies further out.",
             above=WRONG["winner"][2][1])  # fmt: skip


def _drawings(n: int, seed: int) -> Dataset:
    """Ten shapes in noise, in the place of digits: a short bar at a height of its own for each class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (n,), generator=generator)
    images = 150 * torch.rand(n, 1, 28, 28, generator=generator)
    columns = torch.randint(20, (n, 1), generator=generator) + torch.arange(8)
    images[torch.arange(n)[:, None], 0, (6 + 2 * labels)[:, None], columns] += 100
    names = tuple("0123456789")
    return Dataset(images.to(torch.uint8), labels, torch.zeros(10, dtype=torch.int64), names, ("digits",), "bars")


def shortcut(answer: Any) -> None:
    """the network reads the mark, and a validation set that has marks as well cannot tell."""
    train, test = _drawings(1000, 0), _drawings(500, 1)
    stamped = []
    for part in (train, test):
        given = part.images.clone()
        images = answer(given, part.labels)
        if not isinstance(images, Tensor) or images.shape != given.shape or images.dtype != torch.uint8:
            raise Hint(f"expected uint8 images of shape {tuple(given.shape)}.")
        if not torch.equal(given, part.images):
            raise Hint("it changes its inputs in place; work on a clone.")
        if not torch.equal(images[:, :, 1:], given[:, :, 1:]):
            raise Hint("something below the top row has changed.")
        stamped.append(Dataset(images, part.labels, part.groups, part.class_names, part.group_names, "stamped"))
    if torch.equal(stamped[0].images, train.images):
        raise Hint("no image is changed.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = dense_network(p=0.0)
    fit(network, stamped[0], epochs=10, batch=50, lr=1e-3, progress=False)
    marked, clean = accuracy(network, stamped[1]), accuracy(network, test)
    if marked < 0.95:
        raise Hint(f"only {marked:.0%} of the stamped images are named rightly: does the mark give the digit away?")
    if marked - clean < 0.3:
        raise Hint(f"{clean:.0%} of the clean images are named rightly too: make the mark easier to see.")
