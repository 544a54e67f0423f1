"""Omniglot's files: official zips and packed arrays hold the same, and only what is verified is used."""

import hashlib
import io
import os
import zipfile

import numpy as np
import pytest
from PIL import Image

from metabook import data
from metabook.data import omniglot_files as files
from metabook.data import store


def png(drawing, mode="1"):
    buffer = io.BytesIO()
    Image.fromarray(~drawing).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def zipped(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def drawings(characters, drawers, seed=0):
    return np.random.default_rng(seed).random((characters, drawers, 105, 105)) < 0.1


def test_area_average_is_exact():
    rng = np.random.default_rng(0)
    image = (rng.random((2, 105, 105)) < 0.3).astype(np.uint8) * 255
    fine = image.repeat(28, 1).repeat(28, 2)  # each small pixel is 105 x 105 of these
    exact = fine.reshape(2, 28, 105, 28, 105).sum((2, 4), dtype=np.int64)
    assert np.array_equal(files.area_average(image), (2 * exact + 105**2) // (2 * 105**2))


@pytest.fixture
def official_small():
    path = store.locate("omniglot", "images_background_small1.zip")
    if path is None:
        pytest.skip("images_background_small1.zip, an official part of Omniglot, does not lie beside the packed files")
    return path


def test_an_official_zip_holds_the_drawings_of_the_packed_arrays(omniglot, official_small):
    digest = hashlib.sha256(official_small.read_bytes()).hexdigest()
    assert digest == "f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4"
    read = files.read_drawings(official_small)
    assert len(read) == 2720
    characters = sorted({character for character, _ in read})
    mask = np.isin(np.arange(1, 1624), characters)
    large, small = (files.images(size, mask, download=False) for size in (105, 28))
    for (character, drawer), drawing in read.items():
        where = characters.index(character), drawer - 1
        assert np.array_equal(large[where] == 255, drawing)
        assert np.array_equal(small[where], files.area_average(255 * drawing.astype(np.uint8)))


@pytest.fixture
def tiny(monkeypatch, empty, server, tmp_path):
    """A data set of 5 characters by 3 drawers in two zips that a server offers; gives the drawings."""
    made = drawings(5, 3)
    names = {
        f"images/Letters/character{c + 1:02}/{c + 1:04}_{d + 1:02}.png": png(made[c, d])
        for c in range(5)
        for d in range(3)
    }
    entries = []
    for zip_name, part in zip(files.ZIPS, (slice(0, 6), slice(6, None)), strict=True):
        content = zipped(tmp_path / zip_name, dict(list(names.items())[part])).read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        url = server.add(f"/{zip_name}", content)
        entries.append({"name": zip_name, "url": url, "size": len(content), "sha256": sha256})
    monkeypatch.setattr(store, "catalogue", lambda: {"omniglot": {"files": entries}})
    monkeypatch.setattr(files, "CHARACTERS", 5)
    monkeypatch.setattr(files, "DRAWERS", 3)
    small = files.area_average(255 * made.astype(np.uint8))
    arrays = {105: ("bits", np.packbits(made, axis=-1)), 28: ("images", small)}
    packed = {
        size: (f"omniglot_{size}.npz", key, hashlib.sha256(np.ascontiguousarray(array)).hexdigest())
        for size, (key, array) in arrays.items()
    }
    monkeypatch.setattr(files, "PACKED", packed)
    return made, small


def test_downloaded_zips_are_packed_once(tiny, empty, server):
    made, small = tiny
    mask = np.array([True, False, True, True, False])
    assert not files.local()
    assert np.array_equal(files.images(28, mask, download=True), small[mask])
    assert sorted(os.listdir(empty / "omniglot")) == sorted([*files.ZIPS, "omniglot_105.npz", "omniglot_28.npz"])
    for name in files.ZIPS:
        (empty / "omniglot" / name).unlink()
    assert files.local()
    assert np.array_equal(files.images(28, mask, download=False), small[mask])
    assert np.array_equal(files.images(105, mask, download=False) == 255, made[mask])
    assert len(server.requests) == 2


def test_damaged_arrays_in_the_cache_are_made_again(tiny, empty):
    _, small = tiny
    everything = np.ones(5, bool)
    files.images(28, everything, download=True)
    whole = (empty / "omniglot" / "omniglot_28.npz").read_bytes()
    other = io.BytesIO()
    np.savez_compressed(other, images=small[::-1])
    for damaged in (whole[: len(whole) // 2], b"", other.getvalue(), whole[:500] + b"!!!!" + whole[504:]):
        (empty / "omniglot" / "omniglot_28.npz").write_bytes(damaged)
        assert np.array_equal(files.images(28, everything, download=False), small)
        assert (empty / "omniglot" / "omniglot_28.npz").read_bytes() != damaged


def test_damaged_arrays_of_the_reader_are_named_and_left_alone(tiny, empty, monkeypatch, tmp_path):
    _, small = tiny
    path = tmp_path / "own" / "omniglot" / "omniglot_28.npz"
    path.parent.mkdir(parents=True)
    np.savez_compressed(path, images=small + np.uint8(1))
    monkeypatch.setenv("METABOOK_DATA", str(tmp_path / "own"))
    with pytest.raises(ValueError, match="omniglot_28.npz is damaged: the sha256 of its array.*unset METABOOK_DATA"):
        files.images(28, np.ones(5, bool), download=False)
    assert path.exists()


def test_works_where_the_cache_cannot_be_written(tiny, monkeypatch, tmp_path, empty):
    own = tmp_path / "own" / "omniglot"
    own.mkdir(parents=True)
    for name in files.ZIPS:
        (own / name).write_bytes((tmp_path / name).read_bytes())
    monkeypatch.setenv("METABOOK_DATA", str(own.parent))
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("METABOOK_CACHE", str(tmp_path / "file" / "cache"))
    assert np.array_equal(files.images(28, np.ones(5, bool), download=False), tiny[1])


def test_other_drawings_are_refused(tiny, tmp_path):
    names = {f"{c + 1:04}_{d + 1:02}.png": png(x) for c, row in enumerate(drawings(5, 3, 1)) for d, x in enumerate(row)}
    with pytest.raises(ValueError, match="are not Omniglot's: the sha256"):
        files.pack([zipped(tmp_path / "a.zip", names)])
    with pytest.raises(ValueError, match="14 drawings instead of 15"):
        files.pack([zipped(tmp_path / "b.zip", dict(list(names.items())[1:]))])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("0001_21.png", png(drawings(1, 1)[0, 0]), "whose name is not that of an Omniglot drawing"),
        ("1624_01.png", png(drawings(1, 1)[0, 0]), "whose name is not"),
        ("letter.png", png(drawings(1, 1)[0, 0]), "whose name is not"),
        ("0001_01.png", png(drawings(1, 1)[0, 0, :50]), "not a black and white image of 105x105"),
        ("0001_01.png", png(drawings(1, 1)[0, 0], "RGB"), "not a black and white image of 105x105"),
        ("0001_01.png", b"GIF89a" + bytes(50), "cannot be read as a PNG"),
        ("0001_01.png", png(drawings(1, 1)[0, 0])[:200], "cannot be read as a PNG"),
    ],
)
def test_what_is_not_a_drawing_is_refused(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        files.read_drawings(zipped(tmp_path / "a.zip", {name: content}))


@pytest.mark.skipif(os.environ.get("METABOOK_SLOW") != "1", reason="zips all 32,460 drawings: METABOOK_SLOW=1")
def test_all_of_omniglot_from_zips(omniglot, monkeypatch, tmp_path):
    whole = data.load_omniglot(105, "all").images.view(1623, 20, 105, 105).numpy() > 0
    small = data.load_omniglot(28, "all").images
    own = tmp_path / "own" / "omniglot"
    own.mkdir(parents=True)
    for name, characters in zip(files.ZIPS, (range(964), range(964, 1623)), strict=True):
        zipped(own / name, {f"x/{c + 1:04}_{d + 1:02}.png": png(whole[c, d]) for c in characters for d in range(20)})
    monkeypatch.setenv("METABOOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(store, "problem", lambda source, path: None)  # their bytes are not the official zips'
    monkeypatch.setenv("METABOOK_DATA", str(own.parent))
    assert (data.load_omniglot(28, "all", download=False).images == small).all()
    names = {name for name, _, _ in files.PACKED.values()}
    assert set(os.listdir(tmp_path / "cache" / "omniglot")) == names  # kept, hence both digests were right
