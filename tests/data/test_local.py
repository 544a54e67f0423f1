"""What is at hand, and the choice between Omniglot and Glyphs."""

import sys

import pytest
import torch

from metabook import data
from metabook.data import local


def test_glyphs_are_always_at_hand(empty):
    assert data.available("glyphs") and not data.available("omniglot") and not data.available("mnist")


def test_omniglot_counts_as_zips_or_as_arrays(empty):
    for names in (["omniglot_28.npz"], ["images_background.zip", "images_evaluation.zip"]):
        for name in names:
            assert not data.available("omniglot")
            (empty / "omniglot").mkdir(parents=True, exist_ok=True)
            (empty / "omniglot" / name).write_bytes(b"")
        assert data.available("omniglot")
        for name in names:
            (empty / "omniglot" / name).unlink()


def test_digits_depend_on_scikit_learn(monkeypatch):
    for found in (None, object()):
        monkeypatch.setattr(local, "find_spec", lambda name, found=found: found if name == "sklearn" else None)
        assert data.available("digits") == (found is not None)


def test_unknown_name():
    with pytest.raises(ValueError, match="no data set is called 'cifar'"):
        data.available("cifar")


@pytest.mark.parametrize(
    ("split", "glyphs"),
    [("background", "train"), ("train", "train"), ("evaluation", "test"), ("validation", "validation")],
)
def test_characters_of_an_offline_reader_are_glyphs(monkeypatch, split, glyphs):
    def offline(size, split):
        raise data.DataNotFound("no network")

    monkeypatch.setattr(local, "load_omniglot", offline)
    chosen = data.characters(split)
    assert chosen.name == f"Glyphs {glyphs}" and chosen.classes >= 80


@pytest.mark.parametrize("split", ["train", "validation", "test", "background"])
def test_characters_are_omniglot_where_it_is_at_hand(omniglot, split):
    assert data.characters(split).name == f"Omniglot {split}"


def test_a_damaged_file_is_not_passed_over(monkeypatch):
    def damaged(size, split):
        raise ValueError("not the official file")

    monkeypatch.setattr(local, "load_omniglot", damaged)
    with pytest.raises(ValueError, match="not the official file"):
        data.characters("test")


def test_bad_arguments():
    with pytest.raises(ValueError, match="split must be one of background, .* got 'tests'"):
        data.characters("tests")
    with pytest.raises(ValueError, match="size must be 28 or 105, got 64"):
        data.characters("test", size=64)


def test_importing_reads_no_file_and_no_large_library():
    import subprocess

    code = (
        "import sys, torch, numpy; before = set(sys.modules); import metabook.data;"
        "new = {m.split('.')[0] for m in set(sys.modules) - before};"
        "assert not new & {'matplotlib', 'sklearn', 'PIL', 'scipy', 'urllib3'}, new"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_numerals_are_mnist_or_the_digits_of_scikit_learn(monkeypatch):
    def absent(split):
        raise data.DataNotFound("not here")

    monkeypatch.setattr("metabook.data.local.load_mnist", absent)
    train, test = data.numerals("train"), data.numerals("test")
    assert len(train) == 1297 and len(test) == 500 and train.name == "Digits train"
    assert train.images.shape[1:] == (1, 28, 28) and train.images.dtype == torch.uint8
    assert int(train.images[:, :, :4].max()) == 0 and int(train.images.max()) > 200
    rows = {tuple(image.flatten().tolist()) for image in test.images}
    assert not any(tuple(image.flatten().tolist()) in rows for image in train.images)
