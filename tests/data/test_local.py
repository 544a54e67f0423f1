"""What is at hand, and the choice between Omniglot and Glyphs."""

import sys

import pytest

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


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_characters_of_an_offline_reader_are_glyphs(empty, split):
    chosen = data.characters(split)
    assert chosen.name == f"Glyphs {split}" and chosen.classes >= 80


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_characters_are_omniglot_where_it_is_at_hand(omniglot, split):
    chosen = data.characters(split)
    assert chosen.name == f"Omniglot {split}"
    assert not set(chosen.group_names) & {
        g for s in ("train", "test") if s != split for g in data.characters(s).group_names
    }


def test_characters_download_only_when_asked(empty, monkeypatch):
    asked = []
    monkeypatch.setattr(local, "load_omniglot", lambda size, split, download: asked.append((size, split, download)))
    data.characters("test")
    assert asked == []
    data.characters("test", size=105, download=True)
    assert asked == [(105, "test", True)]


def test_bad_arguments():
    with pytest.raises(ValueError, match="split must be train, validation or test, got 'all'"):
        data.characters("all")
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
