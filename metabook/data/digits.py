"""The 1,797 handwritten digits that come with scikit-learn.

E. Alpaydin and C. Kaynak, "Cascading classifiers", Kybernetika 34 (1998) 369-374.
"""

from __future__ import annotations

import torch

from metabook.data.dataset import Dataset


def load_digits() -> Dataset:
    """Digits of 8x8 pixels, in scikit-learn's order.

    Returns:
        Images `(1797, 1, 8, 8)`, the 17 levels of ink spread over 0..255; classes 0..9 in one group.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits as load
    except ImportError as error:
        raise ImportError(
            "load_digits reads the digits that come with scikit-learn, which is not installed; install the extra "
            '"digits" of this package, or scikit-learn itself (pip install scikit-learn)'
        ) from error
    data = load()
    ink = torch.from_numpy(data.images)  # (1797, 8, 8) float64, 0..16
    return Dataset(
        images=(ink * 255 / 16).round().to(torch.uint8)[:, None],
        labels=torch.from_numpy(data.target).long(),
        groups=torch.zeros(10, dtype=torch.int64),
        class_names=tuple("0123456789"),
        group_names=("digits",),
        name="Digits",
    )
