"""Marks on an axes: a curve with its interval, names beside lines, the points of an episode."""

from __future__ import annotations

from typing import Any

import numpy as np

from metabook.plotting.style import class_style, colors, text_color, to_array


def band(
    ax: Any, x: Any, mean: Any, half_width: Any, *, color: str, label: str | None = None, linestyle: str = "-"
) -> Any:
    """Draw a line within its band, by the book's habit a mean and its 95 % interval.

    Args:
        ax: matplotlib axes.
        x, mean, half_width: `(n,)`; the band reaches from `mean - half_width` to `mean + half_width`.
        color: of line and band.
        label: read by `label_lines`.
        linestyle: matplotlib's.

    Returns:
        The line.

    Raises:
        ValueError: shapes that differ, values that are not finite.
    """
    x, mean, half = (to_array(v, n, 1) for v, n in ((x, "x"), (mean, "mean"), (half_width, "half_width")))
    if not x.shape == mean.shape == half.shape:
        raise ValueError(f"band needs x, mean and half_width of one shape, got {x.shape}, {mean.shape}, {half.shape}")
    ax.fill_between(x, mean - half, mean + half, color=color, alpha=0.2, linewidth=0)
    return ax.plot(x, mean, color=color, label=label, linestyle=linestyle)[0]


def label_lines(ax: Any) -> list[Any]:
    """Write each labelled line's name beside its right end, in its colour, instead of a legend.

    Call it last: the places depend on the limits.  Names that would overlap are pushed apart, as little as
    possible.

    Returns:
        The matplotlib texts.
    """
    lines = [line for line in ax.get_lines() if not line.get_label().startswith("_") and len(line.get_xdata())]
    if not lines:
        return []
    ends = np.array([line.get_xydata()[-1] for line in lines])
    ax.figure.draw_without_rendering()  # settles limits and layout
    heights = ax.transData.transform(ends)[:, 1] * 72 / ax.figure.dpi  # points
    size = ax.xaxis.label.get_size()
    moved = _apart(heights, 1.25 * size)
    return [
        ax.annotate(
            line.get_label(), end, (6, new - old), textcoords="offset points", va="center", fontsize=size,
            color=text_color(_hex(line.get_color())), annotation_clip=False,
        )
        for line, end, old, new in zip(lines, ends, heights, moved, strict=True)
    ]  # fmt: skip


def _hex(color: Any) -> str:
    from matplotlib.colors import to_hex

    return to_hex(color)


def _apart(heights: np.ndarray, gap: float) -> np.ndarray:
    """The heights nearest to the given ones (least squares) that are at least `gap` apart, in the same order.

    Subtracting `gap` per rank makes it isotonic regression: neighbours in the wrong order share their mean.
    """
    order = np.argsort(heights, kind="stable")
    steps = gap * np.arange(len(order))
    blocks: list[list[float]] = []
    for value in heights[order] - steps:
        blocks.append([value])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    moved = np.empty(len(order))
    moved[order] = np.concatenate([np.full(len(b), np.mean(b)) for b in blocks]) + steps
    return moved


_KINDS = {
    "support": {"s": 46, "linewidths": 0.8, "zorder": 4},
    "query": {"s": 18, "linewidths": 1.0, "zorder": 3},
    "prototype": {"s": 190, "linewidths": 1.2, "zorder": 5},
}


def scatter_classes(ax: Any, points: Any, labels: Any, *, kind: str = "support") -> None:
    """Draw points in the colour and shape of their class.

    Args:
        ax: matplotlib axes.
        points: `(n, 2)`.
        labels: `(n,)` classes 0, 1, ...
        kind: "support" (filled), "query" (small and hollow) or "prototype" (large star).

    Raises:
        ValueError: other shapes, or another kind.
    """
    points, labels = check_points(points, labels)
    if kind not in _KINDS:
        raise ValueError(f"kind must be one of {', '.join(_KINDS)}, got {kind!r}")
    for k in np.unique(labels):
        color, marker = class_style(k)
        ax.scatter(
            *points[labels == k].T, marker="*" if kind == "prototype" else marker,
            facecolors="none" if kind == "query" else color, edgecolors=color if kind == "query" else colors.ink,
            **_KINDS[kind],
        )  # fmt: skip


def check_points(points: Any, labels: Any, name: str = "points") -> tuple[np.ndarray, np.ndarray]:
    """Points `(n, 2)` with one class `(n,)` each, as arrays; `ValueError` for anything else."""
    points, labels = to_array(points, name, 2), to_array(labels, "labels", 1).astype(int)
    if points.shape[1] != 2 or len(points) != len(labels):
        raise ValueError(f"{name} need shape (n, 2) and one label each, got {points.shape} and {labels.shape}")
    if len(labels) and labels.min() < 0:
        raise ValueError(f"labels are classes 0, 1, ..., met {labels.min()}")
    return points, labels
