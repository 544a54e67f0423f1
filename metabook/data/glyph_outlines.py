"""Centre lines of characters, from the outlines of the DejaVu fonts inside matplotlib.

A glyph's outline is scaled to a box, filled, and thinned to lines one pixel wide, so that a pen of any width can draw
it again.  Only outlines without hinting are read, which do not depend on FreeType's version.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # matplotlib is imported where it is used
    from matplotlib.ft2font import FT2Font
    from matplotlib.path import Path as Outline

SIDE = 64  # pixels of a drawing sheet, so that a row is one machine word
BOX = 44  # pixels of the longer side of the character on it

STYLES = {
    "Sans": "DejaVuSans.ttf",
    "Serif": "DejaVuSerif.ttf",
    "Mono": "DejaVuSansMono.ttf",
    "Sans Bold": "DejaVuSans-Bold.ttf",
    "Serif Italic": "DejaVuSerif-Italic.ttf",
}


@cache
def font(style: str) -> FT2Font:
    """The font of a style, one pixel to each of its units.

    Raises:
        FileNotFoundError: this matplotlib comes without the font.
    """
    from matplotlib import get_data_path
    from matplotlib.ft2font import FT2Font

    path = Path(get_data_path()) / "fonts" / "ttf" / STYLES[style]
    if not path.is_file():
        raise FileNotFoundError(f"Glyphs are drawn from the DejaVu fonts inside matplotlib, but {path} does not exist")
    opened = FT2Font(str(path))
    opened.set_size(opened.units_per_EM, 72)  # coordinates are whole numbers, nothing is rounded
    return opened


@cache
def characters(style: str) -> frozenset[str]:
    """The characters for which the font of a style has a glyph of its own."""
    return frozenset(map(chr, font(style).get_charmap()))


def outline(style: str, character: str | None) -> Outline | None:
    """The outline of a character as a matplotlib path, in units of the font; None when it is empty.

    Args:
        style: one of STYLES.
        character: a single character, or None for the box that stands for missing glyphs.
    """
    from matplotlib import ft2font
    from matplotlib.path import Path as Outline

    flags = getattr(ft2font, "LoadFlags", None)
    opened = font(style)
    unhinted = flags.NO_HINTING if flags else ft2font.LOAD_NO_HINTING
    opened.load_glyph(0 if character is None else opened.get_char_index(ord(character)), flags=unhinted)
    vertices, codes = opened.get_path()
    return Outline(vertices, codes) if len(vertices) else None


def centre_lines(text: str) -> tuple[np.ndarray, np.ndarray]:
    """The centre lines of each character of a text in each style that has it.

    Returns:
        Sheets bool `(sheets, SIDE, SIDE)`; and int64 `(len(text), len(STYLES))`, which sheet each style uses: its own,
        or where the font lacks the character those of Sans and Sans Bold in turn.

    Raises:
        ValueError: a character that DejaVu Sans does not draw.
    """
    sheets, number = [], np.full((len(text), len(STYLES)), -1)
    for k, style in enumerate(STYLES):
        for i, character in enumerate(text):
            path = outline(style, character) if character in characters(style) else None
            if path is not None:
                number[i, k] = len(sheets)
                sheets.append(path)
    sans, bold = (list(STYLES).index(style) for style in ("Sans", "Sans Bold"))
    absent = [character for character, own in zip(text, number, strict=True) if min(own[sans], own[bold]) < 0]
    if absent:
        raise ValueError(f"the DejaVu Sans fonts of this matplotlib do not draw {', '.join(map(ascii, absent[:5]))}")
    for k in range(len(STYLES)):
        number[:, k] = np.where(number[:, k] < 0, number[:, (sans, bold)[k % 2]], number[:, k])
    return thin(fill(sheets)), number


def fill(outlines: list[Outline], stretch: bool = False) -> np.ndarray:
    """Fill outlines, each scaled so that its longer side is BOX pixels: bool `(len(outlines), SIDE, SIDE)`.

    Args:
        outlines: matplotlib paths.
        stretch: make the shorter side BOX pixels, too, unless it is below 0.4 of the longer.
    """
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.transforms import Affine2D

    sheets = np.empty((len(outlines), SIDE, SIDE), bool)
    renderer = RendererAgg(SIDE, SIDE, 72)
    context = renderer.new_gc()
    context.set_linewidth(0)
    context.set_snap(False)
    for sheet, path in zip(sheets, outlines, strict=True):
        points = np.concatenate(path.to_polygons())  # curves as short lines: the exact box, quickly
        low, high = points.min(0), points.max(0)
        sides = high - low
        scale = BOX / (sides if stretch and sides.min() > 0.4 * sides.max() else np.repeat(sides.max(), 2))
        place = Affine2D().translate(*(-(low + high) / 2)).scale(*scale).translate(SIDE / 2, SIDE / 2)
        renderer.clear()
        renderer.draw_path(context, path, place, (0.0, 0.0, 0.0))
        sheet[:] = np.asarray(renderer.buffer_rgba())[..., 3] > 127
    return sheets


def thin(sheets: np.ndarray) -> np.ndarray:
    """Thin shapes to lines one pixel wide that keep their topology; bool `(n, SIDE, SIDE)`, the margin empty.

    Z. Guo and R. W. Hall, "Parallel thinning with two-subiteration algorithms", Communications of the ACM 32 (1989)
    359-373.  A row of 64 pixels is one machine word, so each step is a few dozen bitwise operations on all sheets.
    """
    word = np.packbits(sheets, axis=-1).view(">u8")[..., 0].astype(np.uint64)  # (n, SIDE)
    one = np.uint64(1)
    changed = True
    while changed:
        changed = False
        for first in (True, False):
            up, down = np.zeros_like(word), np.zeros_like(word)
            up[:, 1:], down[:, :-1] = word[:, :-1], word[:, 1:]
            n, s, e, w = up, down, word << one, word >> one
            ne, nw, se, sw = up << one, up >> one, down << one, down >> one
            crossings = _exactly_one(~n & (ne | e), ~e & (se | s), ~s & (sw | w), ~w & (nw | n))
            pairs = (nw | n, ne | e, se | s, sw | w), (n | ne, e | se, s | sw, w | nw)
            not_end = _at_least_two(*pairs[0]) & _at_least_two(*pairs[1])
            not_inside = ~(_all(*pairs[0]) & _all(*pairs[1]))
            side = (n | ne | ~se) & e if first else (s | sw | ~nw) & w
            remove = word & crossings & not_end & not_inside & ~side
            if remove.any():
                word, changed = word & ~remove, True
    return np.unpackbits(word.astype(">u8")[..., None].view(np.uint8), axis=-1).astype(bool)


def distances(lines: np.ndarray, most: int = 8) -> np.ndarray:
    """Euclidean distance of each pixel to the nearest line pixel, cut at `most`: float32 `(n, SIDE, SIDE)` pixels."""
    far = most * most
    row = np.where(lines, np.uint8(0), np.uint8(far))  # squared distances along rows, then along columns
    for axis in (2, 1):
        nearest = row.copy()
        for shift in range(1, most):
            step = np.uint8(shift * shift)
            ahead, behind = _slices(axis, shift)
            for to, of in ((ahead, behind), (behind, ahead)):
                candidate = row[of]
                candidate = np.minimum(candidate, np.uint8(far - shift * shift)) + step
                np.minimum(nearest[to], candidate, out=nearest[to])
        row = nearest
    return np.sqrt(row, dtype=np.float32)


def _slices(axis: int, shift: int) -> tuple:
    ahead = tuple(slice(shift, None) if k == axis else slice(None) for k in range(3))
    behind = tuple(slice(None, -shift) if k == axis else slice(None) for k in range(3))
    return ahead, behind


def _at_least_two(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    return (a & b) | (c & d) | ((a | b) & (c | d))


def _exactly_one(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    return (a | b | c | d) & ~_at_least_two(a, b, c, d)


def _all(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    return a & b & c & d
