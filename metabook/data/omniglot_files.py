"""Omniglot's files: the official zips, and the packed arrays made of them, verified by the digest of the arrays.

Characters are numbered 1..1623 and drawers 1..20 in the names of the official drawings (`0108_05.png`).
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
import zlib
from pathlib import Path

import numpy as np

from metabook.data import store
from metabook.data.archive import read_zip

CHARACTERS, DRAWERS, SIDE = 1623, 20, 105
ZIPS = ("images_background.zip", "images_evaluation.zip")
RUNS = "all_runs.zip"

# sha256 of the arrays' bytes: bits (1623, 20, 105, 14), packed along the last axis, 1 = ink; images (1623, 20, 28, 28)
PACKED = {
    105: ("omniglot_105.npz", "bits", "f7b5fcd92e1615006e95c8f42b4c6b67f1fdb4178b38b300fcf9aa5c8da846b1"),
    28: ("omniglot_28.npz", "images", "32b17fc95e1d2df254bab2e046f2d1f27d5d86c76ef550090a2add48aa21150d"),
}


def images(size: int, mask: np.ndarray, download: bool) -> np.ndarray:
    """Drawings of the characters where `mask (1623,)` is true: uint8 `(characters, 20, size, size)`, 255 = ink."""
    if size == 28:
        small = _packed(28)
        if small is None:
            small = np.concatenate([area_average(_unpack(block)) for block in np.array_split(_bits(download), 40)])
            _keep(28, small)
        return small[mask]
    return _unpack(_bits(download)[mask])


def local() -> bool:
    """Whether Omniglot is on this machine, packed or as the official zips (their content is not verified here)."""
    packed = any(store.locate("omniglot", name) for name, _, _ in PACKED.values())
    return packed or all(store.locate("omniglot", name) for name in ZIPS)


def area_average(drawings: np.ndarray, size: int = 28) -> np.ndarray:
    """Mean ink over each of size x size equal cells, uint8, halves rounded up; exact, in integers.

    Args:
        drawings: uint8 `(..., side, side)`.
    """
    side = drawings.shape[-1]
    edges, pixels = np.arange(size + 1) * side, np.arange(side) * size  # in units of 1/size pixel
    overlap = np.minimum(edges[1:, None], pixels + size) - np.maximum(edges[:-1, None], pixels)
    weights = overlap.clip(0).astype(np.float64)  # (size, side), rows sum to side; float64 holds these integers exactly
    total = weights @ drawings.astype(np.float64) @ weights.T
    return ((2 * total.astype(np.int64) + side**2) // (2 * side**2)).astype(np.uint8)


def read_drawings(path: Path) -> dict[tuple[int, int], np.ndarray]:
    """Every drawing in an official zip: bool `(105, 105)`, true = ink, by (character, drawer).

    Raises:
        ValueError: an unsafe or damaged zip, or one with a drawing that is not Omniglot's.
    """
    drawings = {}
    for name, content in read_zip(path, suffix=".png"):
        match = re.fullmatch(r"(\d{4})_(\d{2})\.png", name.name)
        if not match or not (1 <= int(match[1]) <= CHARACTERS and 1 <= int(match[2]) <= DRAWERS):
            raise ValueError(f"{path} holds {name}, whose name is not that of an Omniglot drawing (0001_01.png)")
        drawings[int(match[1]), int(match[2])] = decode(content, f"{name} in {path}")
    return drawings


def decode(content: bytes, name: str) -> np.ndarray:
    """A drawing from the bytes of its PNG: bool `(105, 105)`, true = ink (black in the file)."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if image.size != (SIDE, SIDE) or image.mode != "1":
                raise ValueError(f"{name} is not a black and white image of {SIDE}x{SIDE} pixels")
            return ~np.asarray(image)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{name} cannot be read as a PNG image: {error}") from error


def pack(paths: list[Path]) -> np.ndarray:
    """The array of bits `(1623, 20, 105, 14)` of all drawings in the official zips.

    Raises:
        ValueError: drawings are missing, or the array is not the official one.
    """
    bits = np.zeros((CHARACTERS, DRAWERS, SIDE, -(-SIDE // 8)), np.uint8)
    drawings = {key: drawing for path in paths for key, drawing in read_drawings(path).items()}
    if len(drawings) != CHARACTERS * DRAWERS:
        found = f"{len(drawings):,} drawings instead of {CHARACTERS * DRAWERS:,}"
        raise ValueError(f"{' and '.join(map(str, paths))} together hold {found}")
    for (character, drawer), drawing in drawings.items():
        bits[character - 1, drawer - 1] = np.packbits(drawing, axis=-1)
    wrong = _wrong(105, bits)
    if wrong:
        raise ValueError(f"the drawings in {' and '.join(map(str, paths))} are not Omniglot's: {wrong}")
    return bits


def oneshot_runs(size: int, download: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The 20 official runs: support and query uint8 `(20, 20, size, size)`, answers int64 `(20, 20)`."""
    path = store.get("omniglot", RUNS, download)
    members = {str(name): content for name, content in read_zip(path, total_bytes=1 << 22)}
    drawings = np.empty((2, 20, 20, SIDE, SIDE), np.uint8)
    answers = np.empty((20, 20), np.int64)
    for run in range(20):
        for k in range(20):
            for part, name in enumerate((f"training/class{k + 1:02}.png", f"test/item{k + 1:02}.png")):
                name = f"run{run + 1:02}/{name}"
                drawings[part, run, k] = 255 * decode(members[name], f"{name} in {path}")
        pairs = re.findall(r"test/item(\d+)\.png\s+\S*training/class(\d+)\.png", _text(members, run))
        for item, answer in pairs:
            answers[run, int(item) - 1] = int(answer) - 1
    if size != SIDE:
        drawings = area_average(drawings, size)
    return drawings[0], drawings[1], answers


def _text(members: dict[str, bytes], run: int) -> str:
    return members[f"run{run + 1:02}/class_labels.txt"].decode("ascii")


def _bits(download: bool) -> np.ndarray:
    bits = _packed(105)
    if bits is None:
        bits = pack([store.get("omniglot", name, download) for name in ZIPS])
        _keep(105, bits)
    return bits


def _packed(size: int) -> np.ndarray | None:
    """The verified array of a packed file; a damaged one in the cache is thrown away."""
    name, key, _ = PACKED[size]
    for folder in store.folders("omniglot"):
        path = folder / name
        if not path.is_file():
            continue
        try:
            with np.load(path, allow_pickle=False) as arrays:
                array = arrays[key]
            wrong = _wrong(size, array)
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            wrong = f"it cannot be read ({error})"
        if wrong is None:
            return array
        if folder.parent != store.cache_folder():
            raise ValueError(f"{path} is damaged: {wrong}; replace it or unset {store.VARIABLE}")
        path.unlink(missing_ok=True)
    return None


def _wrong(size: int, array: np.ndarray) -> str | None:
    digest = hashlib.sha256(np.ascontiguousarray(array)).hexdigest()
    expected = PACKED[size][2]
    return None if digest == expected else f"the sha256 of its array is {digest} instead of {expected}"


def _keep(size: int, array: np.ndarray) -> None:
    """Store a verified array in the cache; a cache that cannot be written to only costs time."""
    wrong = _wrong(size, array)
    if wrong:
        raise ValueError(f"the {size}x{size} array made of the official drawings differs from Omniglot's: {wrong}")
    name, key, _ = PACKED[size]

    def write(part: Path) -> None:
        with part.open("xb") as file:
            np.savez_compressed(file, **{key: array})

    try:
        store.write_atomically(store.cache_folder() / "omniglot" / name, write)
    except OSError:
        return


def _unpack(bits: np.ndarray) -> np.ndarray:
    return np.unpackbits(bits, axis=-1, count=SIDE) * np.uint8(255)
