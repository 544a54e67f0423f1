"""Which data sets are at hand, and characters and digits for a reader with or without a network."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import torch
import torch.nn.functional as F

from metabook.data import omniglot_files, store
from metabook.data.dataset import Dataset
from metabook.data.digits import load_digits
from metabook.data.glyphs import load_glyphs
from metabook.data.mnist import load_mnist
from metabook.data.omniglot import load_omniglot
from metabook.data.pmlb import local_tables, pmlb_index
from metabook.data.store import DataNotFound


def available(name: str) -> bool:
    """Whether a data set can be loaded without a download (its files are looked for, not verified).

    Args:
        name: "glyphs", "digits", "omniglot", "mnist" or "pmlb" (all of its tables).

    Raises:
        ValueError: no data set of that name.
    """
    files = store.sources(name)
    if name == "omniglot":
        return omniglot_files.local()
    if name == "pmlb":
        return len(local_tables()) == len(pmlb_index())
    if files:
        return all(store.locate(name, file.name) for file in files)
    return find_spec(store.catalogue()[name]["comes_with"]) is not None


# What stands for each split of Omniglot where Glyphs takes its place.
_GLYPHS = {
    "background": "train",
    "train": "train",
    "validation": "validation",
    "evaluation": "test",
    "test": "test",
    "all": "all",
}


def characters(split: str = "background", *, size: int = 28) -> Dataset:
    """Characters for a chapter: Omniglot, downloaded if need be, or Glyphs where it cannot be had.

    So a reader without a network is not stopped.  The name of the result says which it is; both are split by
    alphabet, none straddling.

    Args:
        split: as in `load_omniglot`; of Glyphs, "background" is its training part and "evaluation" its test part.
        size: pixels of a side, 28 or 105.

    Raises:
        ValueError: an unknown split or size, or a damaged file in METABOOK_DATA.
    """
    try:
        return load_omniglot(size, split)
    except DataNotFound:
        return load_glyphs(_GLYPHS[split], size=size)


def numerals(split: str = "train") -> Dataset:
    """Handwritten digits of 28x28 pixels for a chapter: MNIST, or scikit-learn's where it cannot be had.

    The 1,797 digits of scikit-learn are enlarged from 8x8 to 20x20 pixels, with a margin of 4; a fixed 500 of them,
    drawn at random, are the test images.  The name of the result says which it is.

    Args:
        split: "train" or "test".

    Raises:
        ValueError: an unknown split, or a damaged file in METABOOK_DATA.
        ImportError: neither MNIST nor scikit-learn is at hand.
    """
    try:
        return load_mnist(split)
    except DataNotFound:
        small = load_digits()
    large = F.interpolate(small.images.float(), size=20, mode="bilinear").round().to(torch.uint8)
    order = torch.randperm(len(small), generator=torch.Generator().manual_seed(0))
    rows = order[500:] if split == "train" else order[:500]
    return replace(small, images=F.pad(large, (4,) * 4)[rows], labels=small.labels[rows], name=f"Digits {split}")
