"""Drawing centre lines by hand: slant, turn, size, an unsteady hand and the changing pressure of a pen."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SLANT, ASPECT, WIDTH = 0.14, 0.07, 0.4  # how drawers differ from each other: standard deviations
TURN, SIZE, SHIFT = 0.1, 0.08, 0.06  # how one drawer's drawings differ: radians, log scale, half sheets
BEND, TREMOR, PRESSURE = 0.055, 0.009, 0.3  # slow and quick displacements in half sheets; pen radius in pixels
RADIUS = 2.4  # pixels of a sheet of 64


class Hand(NamedTuple):
    """What makes each drawing of a set different; the first dimension of each tensor is the drawing.

    Attributes:
        affine: `(n, 2, 3)`, from points of the drawing to points of the sheet, both in -1..1.
        bend: `(n, 2, 4, 4)`, slow displacements on a coarse grid, in half sheets.
        tremor: `(n, 2, 9, 9)`, small quick ones.
        radius: `(n, 1, 4, 4)`, of the pen on a coarse grid, in pixels of the sheet.
    """

    affine: Tensor
    bend: Tensor
    tremor: Tensor
    radius: Tensor

    def select(self, index: Tensor) -> Hand:
        """The hand of some drawings."""
        return Hand(*(part[index] for part in self))


def hands(characters: int, drawers: int, generator: torch.Generator) -> Hand:
    """Draw at random how each of `drawers` people draws each of `characters`; `n = characters * drawers`.

    A drawer keeps a slant, proportions and a pen; turn, size, place and the unsteadiness are new in each drawing.
    """

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    own = noise(3, drawers).clamp(-2, 2)  # (slant, aspect, pen) of each drawer
    slant, aspect, pen = (part.repeat(characters) for part in own)  # (n,)
    n = characters * drawers
    turn, size, across, along = noise(4, n).clamp(-2, 2)
    turn, size = TURN * turn, torch.exp(SIZE * size)
    cos, sin = turn.cos(), turn.sin()
    wide, high = torch.exp(ASPECT * aspect) / size, torch.exp(-ASPECT * aspect) / size
    slant = SLANT * slant
    to_x = torch.stack([wide * cos, wide * (sin + slant * cos), SHIFT * across], 1)
    to_y = torch.stack([-high * sin, high * (cos - slant * sin), SHIFT * along], 1)
    return Hand(
        affine=torch.stack([to_x, to_y], 1),
        bend=BEND * noise(n, 2, 4, 4),
        tremor=TREMOR * noise(n, 2, 9, 9),
        radius=(RADIUS + WIDTH * pen[:, None, None, None] + PRESSURE * noise(n, 1, 4, 4)).clamp(1.4),
    )


def draw(distances: Tensor, hand: Hand, size: int) -> Tensor:
    """Draw lines again by hand.

    Args:
        distances: float `(n, side, side)`, the distance of each pixel of a sheet to the nearest line, in pixels.
        hand: of `n` drawings.
        size: pixels of the drawings.

    Returns:
        Ink, uint8 `(n, 1, size, size)`, 255 = full.
    """
    n, side, _ = distances.shape
    centre = (torch.arange(size) + 0.5) * 2 / size - 1  # of each pixel, in -1..1
    sheet = torch.stack([*torch.meshgrid(centre, centre, indexing="xy"), torch.ones(size, size)]).flatten(1)
    points = (hand.affine @ sheet).view(n, 2, size, size) + _smooth(hand.bend, size) + _smooth(hand.tremor, size)
    away = F.grid_sample(
        distances[:, None], points.permute(0, 2, 3, 1), padding_mode="border", align_corners=False
    )  # (n, 1, size, size)
    ink = ((_smooth(hand.radius, size) - away) * (size / side) + 0.5).clamp(0, 1)  # an edge is one pixel wide
    return (255 * ink).round().to(torch.uint8)


def _smooth(coarse: Tensor, size: int) -> Tensor:
    """Bicubic interpolation of `(..., k, k)` to `(..., size, size)`, as two products with one matrix."""
    k = coarse.shape[-1]
    weights = F.interpolate(torch.eye(k)[None, None], (size, k), mode="bicubic", align_corners=False)[0, 0]  # (size, k)
    return weights @ coarse @ weights.T
