"""MNIST: 70,000 handwritten digits.

Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, "Gradient-based learning applied to document recognition", Proceedings
of the IEEE 86 (1998) 2278-2324.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from metabook.data import store
from metabook.data.archive import read_gzip
from metabook.data.dataset import Dataset

PREFIX = {"train": "train", "test": "t10k"}


def load_mnist(split: str = "train", *, download: bool = True) -> Dataset:
    """The training or the test images, in the official order.

    Args:
        split: "train" (60,000) or "test" (10,000).
        download: fetch the official files (12 MB) when they are not on this machine.

    Returns:
        Images `(examples, 1, 28, 28)`, classes 0..9 in one group.

    Raises:
        DataNotFound: no file on this machine, and none to be had.
        ValueError: an unknown split, or a damaged file in METABOOK_DATA.
    """
    if split not in PREFIX:
        raise ValueError(f"split must be one of {', '.join(PREFIX)}, got {split!r}")
    images, labels = (
        read_idx(store.get("mnist", f"{PREFIX[split]}-{part}-ubyte.gz", download))
        for part in ("images-idx3", "labels-idx1")
    )
    return Dataset(
        images=torch.from_numpy(images)[:, None],
        labels=torch.from_numpy(labels).long(),
        groups=torch.zeros(10, dtype=torch.int64),
        class_names=tuple("0123456789"),
        group_names=("digits",),
        name=f"MNIST {split}",
    )


def read_idx(path: Path, most: int = 1 << 27) -> np.ndarray:
    """An array of unsigned bytes from a gzip file in the IDX format.

    The format: two zero bytes, the type (8 = unsigned byte), the number of dimensions, each dimension as a big-endian
    32-bit integer, then the values.

    Args:
        path: the file.
        most: most bytes it may unpack to.

    Raises:
        ValueError: not such a file, a damaged one, or a larger one.
    """
    content = read_gzip(path, most)
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is not an IDX file of unsigned bytes: it starts with {content[:4].hex()}")
    start = 4 + 4 * content[3]
    shape = tuple(np.frombuffer(content[4:start], ">u4", len(content[4:start]) // 4).tolist())
    if len(shape) != content[3] or len(content) - start != math.prod(shape):
        raise ValueError(f"{path} is damaged: {max(len(content) - start, 0):,} values for the shape {shape}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()
