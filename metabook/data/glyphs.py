"""Glyphs: 1,604 characters of 14 scripts and two collections of signs, drawn by 20 imagined people.

They are made from the DejaVu fonts inside matplotlib, so they need no download: the stand-in for Omniglot, with
scripts as alphabets.  Each drawer prefers a style of the font and has a slant, proportions and a pen of their own.
"""

from __future__ import annotations

import json
import unicodedata
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from metabook.data import store
from metabook.data.dataset import Dataset

VERSION = 1  # of the drawings: raise it whenever outlines or thinning change
CHUNK = 2048  # drawings at once


def scripts() -> dict[str, dict[str, str]]:
    """The characters of each script by split, none straddling: `{"train": {"Latin": "ABC..."}, ...}`."""
    return json.loads(Path(__file__).with_name("glyphs.json").read_text(encoding="utf-8"))


def load_glyphs(
    split: str = "train", *, size: int = 28, drawers: int = 20, generator: torch.Generator | None = None
) -> Dataset:
    """Characters drawn by hand, in the order character, drawer.

    Args:
        split: "train" (1,329 characters of 7 scripts and the signs), "validation" (90 of 3 scripts), "test"
            (185 of 4 scripts) or "all".
        size: pixels of a side, 8 to 128.
        drawers: drawings of each character.
        generator: draws the hands; by default one with seed 0.  From the same state, a character is drawn
            alike whichever split it is loaded with.

    Returns:
        Images `(drawers * classes, 1, size, size)`; groups are scripts.

    Raises:
        ValueError: an unknown split, a size or number out of range, a generator that is not on the CPU.
        FileNotFoundError: this matplotlib comes without the DejaVu fonts.
    """
    from metabook.data.glyph_outlines import distances
    from metabook.data.pen import draw, hands

    parts = scripts()
    if split != "all" and split not in parts:
        raise ValueError(f"split must be one of {', '.join(parts)}, all, got {split!r}")
    if not 8 <= size <= 128 or drawers < 1:
        raise ValueError(f"size must lie in 8..128 and drawers be at least 1, got size {size} and {drawers} drawers")
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    if generator.device.type != "cpu":
        raise ValueError(f"glyphs are drawn on the CPU and need a generator there, got one on {generator.device}")
    table = [(part, name, c) for part, group in parts.items() for name, members in group.items() for c in members]
    hand = hands(len(table), drawers, generator)  # of all splits, so that a drawing does not depend on the split
    wanted = torch.tensor([split in ("all", part) for part, _, _ in table])
    lines, sheet = _lines()
    number = torch.arange(len(table)).repeat_interleave(drawers)
    drawer = torch.arange(drawers).repeat(len(table))
    sheet = torch.from_numpy(sheet)[number, drawer % sheet.shape[1]]  # (examples,) the centre lines each one follows
    images = []
    for index in wanted[number].nonzero()[:, 0].split(CHUNK):
        used, which = sheet[index].unique(return_inverse=True)
        away = torch.from_numpy(distances(lines[used.numpy()]))
        images.append(draw(away[which], hand.select(index), size))
    chosen = [(name, c) for (_, name, c), kept in zip(table, wanted.tolist(), strict=True) if kept]
    names = list(dict.fromkeys(name for name, _ in chosen))
    return Dataset(
        images=torch.cat(images),
        labels=torch.arange(len(chosen)).repeat_interleave(drawers),
        groups=torch.tensor([names.index(name) for name, _ in chosen]),
        class_names=tuple(unicodedata.name(c) for _, c in chosen),
        group_names=tuple(names),
        name="Glyphs" if split == "all" else f"Glyphs {split}",
        drawers=torch.arange(drawers).repeat(len(chosen)),
    )


@lru_cache(maxsize=1)
def _lines() -> tuple[np.ndarray, np.ndarray]:
    """Centre lines bool `(sheets, 64, 64)`, and which sheet each character has in each style `(characters, styles)`.

    Made once and kept in the cache, under a name that says what they depend on; about 5 s without it.
    """
    import matplotlib

    from metabook.data import glyph_outlines

    text = "".join(members for group in scripts().values() for members in group.values())
    path = store.cache_folder() / "glyphs" / f"lines-{VERSION}-matplotlib-{matplotlib.__version__}.npz"
    try:
        with np.load(path, allow_pickle=False) as kept:
            if str(kept["text"]) == text:
                return np.unpackbits(kept["lines"], axis=-1).astype(bool), kept["sheet"]
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
        pass  # absent or damaged: made again below
    lines, sheet = glyph_outlines.centre_lines(text)

    def write(part: Path) -> None:
        with part.open("xb") as file:
            np.savez_compressed(file, text=np.array(text), lines=np.packbits(lines, axis=-1), sheet=sheet)

    try:
        store.write_atomically(path, write)
    except OSError:
        pass  # a cache that cannot be written to only costs time
    return lines, sheet
