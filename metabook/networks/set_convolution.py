"""Set convolution: from points anywhere to channels on a lattice, and back.

J. Gordon, W. P. Bruinsma, A. Y. K. Foong, J. Requeima, Y. Dubois, R. E. Turner, "Convolutional Conditional Neural
Processes", ICLR 2020, section 4.  With a bump psi(d) = exp(-d^2 / (2 length^2)),

    density(t)   = sum_i psi(t - x_i)                        where something was observed, and how much
    signal(t)    = sum_i psi(t - x_i) y_i / density(t)       what was observed there
    feature(x)   = sum_m psi(x - t_m) h(t_m)                 back from the lattice points t_m

In several dimensions psi is the product of bumps along the axes, so that the sums over a lattice cost two products of
matrices and the lattice is never written out.
"""

from __future__ import annotations

import torch
from torch import Tensor

FLOOR = 1e-6  # of the density that divides: far from every point the signal is 0


def lattice(x: Tensor, spacing: float, margin: int) -> list[Tensor]:
    """The multiples of `spacing` that cover `x (..., dims)`, and `margin` more on each side: one axis per dimension.

    A lattice has as many points as its inputs need, so this reads their range: on a GPU the host waits for it.
    """
    places = x.detach().flatten(0, -2) / spacing
    low, high = places.amin(0).round(decimals=3).floor(), places.amax(0).round(decimals=3).ceil()
    ends = zip(low.tolist(), high.tolist(), strict=True)
    return [
        spacing * torch.arange(int(a) - margin, int(b) + margin + 1, dtype=x.dtype, device=x.device) for a, b in ends
    ]


def to_lattice(x: Tensor, y: Tensor, axes: list[Tensor], length: Tensor) -> Tensor:
    """Density and signal of the points of each task.

    Args:
        x: `(tasks, points, dims)`, with dims 1 or 2.
        y: `(tasks, points, channels)`.
        axes: lattice points along each dimension.
        length: of the bump, a scalar.

    Returns:
        `(tasks, 1 + channels, *lattice)`, the density first.
    """
    first, *second = _bumps(x, axes, length)  # (tasks, points, lattice)
    channels = torch.cat([torch.ones_like(y[..., :1]), y], dim=-1)  # (tasks, points, 1 + channels)
    if second:
        sums = (first.mT[:, None] * channels.mT[:, :, None]) @ second[0][:, None]  # (tasks, 1 + channels, h, w)
    else:
        sums = channels.mT @ first
    density, signal = sums[:, :1], sums[:, 1:]
    return torch.cat([density, signal / (density + FLOOR)], dim=1)


def from_lattice(features: Tensor, x: Tensor, axes: list[Tensor], length: Tensor) -> Tensor:
    """Features `(tasks, channels, *lattice)` at the points `x (tasks, points, dims)`: `(tasks, points, channels)`."""
    first, *second = _bumps(x, axes, length)
    if second:
        rows = first[:, None] @ features  # (tasks, channels, points, w)
        return (rows * second[0][:, None]).sum(-1).mT
    return first @ features.mT


def _bumps(x: Tensor, axes: list[Tensor], length: Tensor) -> list[Tensor]:
    if not len(axes) == x.shape[-1] <= 2:
        raise ValueError(f"inputs need 1 or 2 dimensions and an axis for each, got {x.shape[-1]} and {len(axes)}")
    return [
        (-0.5 * ((x[..., d, None] - axis) / length).square()).exp()  # (tasks, points, lattice)
        for d, axis in enumerate(axes)
    ]
