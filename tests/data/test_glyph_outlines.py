"""Outlines, thinning and distances, against slow and plain versions of the same."""

import numpy as np
import pytest

from metabook.data import glyph_outlines as outlines
from metabook.data.glyphs import scripts


def components(image):
    """Number of 8-connected regions, by flooding."""
    left, count = {tuple(p) for p in np.argwhere(image)}, 0
    while left:
        count, front = count + 1, [left.pop()]
        while front:
            y, x = front.pop()
            around = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= around
            front += around
    return count


def holes(image):
    """Number of 4-connected regions of paper, less the one around."""
    left, count = {tuple(p) for p in np.argwhere(~image)}, -1
    while left:
        count, front = count + 1, [left.pop()]
        while front:
            y, x = front.pop()
            around = {(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)} & left
            left -= around
            front += around
    return count


@pytest.mark.parametrize("style", outlines.STYLES)
def test_thinning_keeps_parts_and_holes(style):
    text = "AB8iQÖ%g"
    shapes = outlines.fill([outlines.outline(style, c) for c in text])
    for character, shape, line in zip(text, shapes, outlines.thin(shapes), strict=True):
        assert not (line & ~shape).any()
        assert (components(line), holes(line)) == (components(shape), holes(shape)), character
    assert [components(shape) for shape in shapes[[0, 3]]] == [1, 2] and holes(shapes[2]) == 2


def test_lines_are_thin():
    """No pixel of a thinned line can be the middle of a block of ink, and a thinned line stays as it is."""
    lines = outlines.thin(outlines.fill([outlines.outline("Sans Bold", c) for c in "ABCDEFGHIKLMNOQRSTW8"]))
    blocks = np.lib.stride_tricks.sliding_window_view(lines, (3, 3), axis=(1, 2)).all((-1, -2))
    assert not blocks.any()
    assert np.array_equal(outlines.thin(lines), lines)


def test_thinning_finds_the_middle_of_a_bar():
    bar = np.zeros((2, 64, 64), bool)
    bar[0, 20:27, 10:50] = True
    bar[1] = bar[0].T
    lines = outlines.thin(bar)
    rows, columns = np.nonzero(lines[0])
    assert np.abs(rows - 23).max() <= 2 and (rows == 23).mean() > 0.9 and columns.max() - columns.min() > 32
    assert np.nonzero(lines[1])[1].min() >= 21


def test_distances_are_euclidean():
    rng = np.random.default_rng(0)
    lines = rng.random((3, 64, 64)) < 0.003
    lines[2] = False
    points = np.stack(np.meshgrid(np.arange(64), np.arange(64), indexing="ij"), -1)
    measured = outlines.distances(lines, most=8)
    for line, got in zip(lines, measured, strict=True):
        ink = np.argwhere(line)
        exact = np.full((64, 64), 8.0)
        if len(ink):
            exact = np.linalg.norm(points[:, :, None] - ink, axis=-1).min(-1).clip(max=8)
        assert np.abs(got - exact).max() < 1e-6


def test_characters_fill_their_box():
    text = "lM-ÄиΩ"
    for stretch in (False, True):
        for shape in outlines.fill([outlines.outline("Serif", c) for c in text], stretch):
            rows, columns = np.nonzero(shape.any(1))[0], np.nonzero(shape.any(0))[0]
            sides = (np.ptp(rows) + 1, np.ptp(columns) + 1)
            assert abs(max(sides) - outlines.BOX) <= 1
            assert abs(rows[0] + rows[-1] - 63) <= 2 and abs(columns[0] + columns[-1] - 63) <= 2
    wide, stretched = (outlines.fill([outlines.outline("Sans", "n")], s)[0].any(0).sum() for s in (False, True))
    assert stretched > wide and abs(stretched - outlines.BOX) <= 1


def test_styles_that_lack_a_character_use_another():
    sheets, number = outlines.centre_lines("Aⴰ")
    assert len(sheets) == 7 and (number >= 0).all()
    assert len(set(number[0])) == 5 and len(set(number[1])) == 2  # Tifinagh is in Sans and Sans Bold alone
    with pytest.raises(ValueError, match=r"do not draw '\\u4e00'"):
        outlines.centre_lines("A一")


def test_lines_do_not_depend_on_the_version_of_matplotlib():
    """Counts that matplotlib 3.7.5 (FreeType 2.6.1) and 3.11.2 (FreeType 2.14.3) gave alike, to the last pixel."""
    sheets, number = outlines.centre_lines("".join(c for part in scripts().values() for s in part.values() for c in s))
    assert sheets.shape == (5464, 64, 64) and number.shape == (1604, 5)
    assert abs(int(sheets.sum()) - 483_571) <= 50  # another processor may round the edge of a shape otherwise
