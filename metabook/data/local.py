"""Which data sets are at hand, and characters for a reader with or without a network."""

from __future__ import annotations

from importlib.util import find_spec

from metabook.data import omniglot_files, store
from metabook.data.dataset import Dataset
from metabook.data.glyphs import load_glyphs
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
