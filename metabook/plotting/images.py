"""Pictures of images: a grid of them, and an episode with its support and query set.

An image is drawn as ink of varying opacity on a faint tile, so it looks right on any page.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from metabook.episode import Episode, is_classification
from metabook.plotting.style import class_style, colors, text_color, to_array


def show_images(images: Any, titles: Sequence[str] | None = None, columns: int | None = None) -> Any:
    """Show images in a grid, row by row.

    Args:
        images: `(n, height, width)` or `(n, 1, height, width)`; 0 is paper and 1 ink (255 for bytes).
        titles: a short word above each.
        columns: at most 10 unless given.

    Returns:
        The matplotlib figure.

    Raises:
        ValueError: other shapes, or not one title per image.
    """
    import matplotlib.pyplot as plt

    tiles = _ink(images)
    if titles is not None and len(titles) != len(tiles):
        raise ValueError(f"{len(titles)} titles for {len(tiles)} images; give one each")
    columns = columns or min(10, len(tiles))
    rows = -(-len(tiles) // columns)
    side = min(0.9, 7.2 / columns)
    fig, axes = plt.subplots(rows, columns, figsize=(columns * side, rows * (side + 0.2 * bool(titles))), squeeze=False)
    fig.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    for k, ax in enumerate(axes.flat):
        ax.axis("off")
        if k < len(tiles):
            ax.imshow(_rgba(tiles[k]))
            ax.set_title(titles[k] if titles else "", loc="center", fontsize=9, pad=3)
    return fig


def show_episode(episode: Episode, task: int = 0, max_queries: int = 5) -> Any:
    """Show one image classification task: its support set and, beside it, its query set, a row for each class.

    Args:
        episode: `x (tasks, examples, 1, height, width)` in 0..1, int64 `y`.
        task: which task of the batch.
        max_queries: queries shown of each class.

    Returns:
        The matplotlib figure.

    Raises:
        ValueError: no images, no classes, or no such task.
    """
    import matplotlib.pyplot as plt

    if not is_classification(episode.support.y) or episode.support.x.ndim != 5:
        raise ValueError(
            f"show_episode draws images with classes: it needs x of shape (tasks, examples, 1, height, width) and "
            f"int64 y, got x {tuple(episode.support.x.shape)} and y {episode.support.y.dtype}"
        )
    if not 0 <= task < episode.tasks:
        raise ValueError(f"task must lie in 0..{episode.tasks - 1}, got {task}")
    parts = [(_ink(part.x[task]), to_array(part.y[task], "labels", 1).astype(int)) for part in episode]
    classes = np.unique(parts[0][1])
    shots, queries = (max(int((labels == k).sum()) for k in classes) for _, labels in parts)
    shown = [shots, min(max_queries, queries)]
    side = min(0.78, 6.2 / sum(shown))
    fig, axes = plt.subplots(1, 2, figsize=(side * sum(shown) + 1.2, side * len(classes) + 0.5), width_ratios=shown)
    of = f" of {queries}" if queries > max_queries else ""
    for ax, (tiles, labels), columns, name in zip(
        axes, parts, shown, ("support\n{} per class", f"query\n{{}}{of} per class"), strict=True
    ):
        _grid(ax, [tiles[labels == k][:columns] for k in classes], columns)
        ax.set_title(name.format(columns), fontsize=9, linespacing=1.35)
    height = parts[0][0].shape[1] + _GAP
    for row, k in enumerate(classes):
        axes[0].text(
            -0.25 * height, (row + 0.5) * height, f"class {k}", ha="right", va="center", fontsize=9.5,
            color=text_color(class_style(k)[0]),
        )  # fmt: skip
    return fig


_GAP = 3  # pixels between tiles


def _grid(ax: Any, rows: list[np.ndarray], columns: int) -> None:
    """All tiles of a panel in one picture; what lies between them stays transparent."""
    height, width = rows[0].shape[1:]
    canvas = np.zeros((len(rows) * (height + _GAP), columns * (width + _GAP), 4))
    for r, tiles in enumerate(rows):
        for c, tile in enumerate(tiles):
            top, left = r * (height + _GAP), c * (width + _GAP)
            canvas[top : top + height, left : left + width] = _rgba(tile)
    ax.imshow(canvas[:-_GAP, :-_GAP])
    ax.axis("off")


def _ink(images: Any) -> np.ndarray:
    """Images as `(n, height, width)` in 0..1."""
    scale = 255 if str(getattr(images, "dtype", "")).endswith("uint8") else 1
    tiles = to_array(images, "images") / scale
    if tiles.ndim == 4 and tiles.shape[1] == 1:
        tiles = tiles[:, 0]
    if tiles.ndim != 3 or not len(tiles):
        raise ValueError(f"images need shape (n, height, width) or (n, 1, height, width), got {np.shape(tiles)}")
    return tiles.clip(0, 1)


def _rgba(tile: np.ndarray) -> np.ndarray:
    ink = [int(colors.ink[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return np.dstack([np.broadcast_to(ink, (*tile.shape, 3)), 0.07 + 0.93 * tile])
