"""The digits of scikit-learn."""

import sys

import pytest
import torch

from metabook import data


def test_all_digits():
    sklearn = pytest.importorskip("sklearn.datasets", reason="the digits come with scikit-learn")
    digits, original = data.load_digits(), sklearn.load_digits()
    assert digits.images.shape == (1797, 1, 8, 8) and digits.labels.tolist() == original.target.tolist()
    levels = (digits.images[:, 0].double() * 16 / 255).round()
    assert torch.equal(levels, torch.from_numpy(original.images))
    assert digits.images.min() == 0 and digits.images.max() == 255 and digits.classes == 10


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match='scikit-learn, which is not installed; install the extra "digits"'):
        data.load_digits()
