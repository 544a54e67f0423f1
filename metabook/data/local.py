"""What can be had on this machine without a download."""

from __future__ import annotations

from importlib.util import find_spec

from metabook.data import omniglot_files, store
from metabook.data.dataset import Dataset
from metabook.data.glyphs import load_glyphs
from metabook.data.omniglot import load_omniglot


def available(name: str) -> bool:
    """Whether a data set can be loaded without a download (its files are looked for, not verified).

    Args:
        name: "glyphs", "digits", "omniglot" or "mnist".

    Raises:
        ValueError: no data set of that name.
    """
    files = store.sources(name)
    if name == "omniglot":
        return omniglot_files.local()
    if files:
        return all(store.locate(name, file.name) for file in files)
    return find_spec(store.catalogue()[name]["comes_with"]) is not None


def characters(split: str = "train", *, size: int = 28, download: bool = False) -> Dataset:
    """Handwritten characters for a chapter: Omniglot where it is at hand, else Glyphs, so that no reader is stopped.

    The name of the result says which it is.  Both are split by alphabet, none straddling.

    Args:
        split: "train", "validation" or "test"; of Omniglot, the last is Lake's evaluation set and the first two
            divide his background set.
        size: pixels of a side, 28 or 105.
        download: fetch Omniglot when it is not on this machine.

    Raises:
        DataNotFound: Omniglot was to be downloaded and cannot be.
        ValueError: an unknown split or size, or a damaged file in METABOOK_DATA.
    """
    if split not in ("train", "validation", "test"):
        raise ValueError(f"split must be train, validation or test, got {split!r}")
    if size not in (28, 105):
        raise ValueError(f"size must be 28 or 105, got {size!r}")
    if download or available("omniglot"):
        return load_omniglot(size, split, download=download)
    return load_glyphs(split, size=size)
