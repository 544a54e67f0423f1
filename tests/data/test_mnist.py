"""MNIST, and the reader of its file format."""

import gzip
import struct

import numpy as np
import pytest
import torch

from metabook import data
from metabook.data.mnist import read_idx


def idx(path, array, header=None):
    shape = struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress((header or bytes([0, 0, 8, array.ndim])) + shape + array.tobytes()))
    return path


def test_official_counts(mnist):
    """The numbers of each digit that are published with the data set."""
    train, test = data.load_mnist("train"), data.load_mnist("test")
    assert train.images.shape == (60000, 1, 28, 28) and test.images.shape == (10000, 1, 28, 28)
    assert train.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    mean = train.images.float().mean() / 255
    assert abs(mean - 0.1307) < 1e-4  # the mean that everyone subtracts
    assert train.class_names == tuple("0123456789") and torch.equal(train.groups, torch.zeros(10, dtype=torch.int64))


def test_reads_any_shape(tmp_path):
    for shape in [(7,), (2, 3), (2, 3, 4)]:
        array = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
        assert np.array_equal(read_idx(idx(tmp_path / "a.gz", array)), array)


def test_bad_files(tmp_path):
    array, path = np.arange(6, dtype=np.uint8).reshape(2, 3), tmp_path / "a.gz"
    with pytest.raises(ValueError, match="not an IDX file of unsigned bytes: it starts with 00000d02"):
        read_idx(idx(path, array, header=b"\0\0\x0d\2"))
    idx(path, array)
    with pytest.raises(ValueError, match="more than 17 bytes"):
        read_idx(path, most=17)
    content = gzip.decompress(path.read_bytes())
    for cut in (content[:-1], content + b"!", content[:10]):
        path.write_bytes(gzip.compress(cut))
        with pytest.raises(ValueError, match="is damaged"):
            read_idx(path)
    for broken in (b"not gzip", gzip.compress(content)[:-9], gzip.compress(bytes(1000))[:15]):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="cannot be read as a gzip file"):
            read_idx(path)


def test_unknown_split():
    with pytest.raises(ValueError, match="split must be one of train, test, got 'validation'"):
        data.load_mnist("validation")


def test_absent(empty):
    with pytest.raises(data.DataNotFound, match="t10k-images-idx3-ubyte.gz.*ossci-datasets.*METABOOK_DATA"):
        data.load_mnist("test", download=False)
