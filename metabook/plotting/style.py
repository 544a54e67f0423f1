"""Colours with roles, and the look of every axes.

A picture is recorded once and read on a white and on a dark page.  No single grey has a contrast of 4.5 on both, so
pictures are drawn as dark ink on a transparent ground, and the dark page turns them with the css filter
`DARK_FILTER`: lightness flips, hue stays.  JupyterLab and Colab put a light ground behind them by themselves.

The colours are of middle lightness: they have a contrast of 3 on white and on the dark page, turned or not, and the
roles stay apart for the three kinds of colour blindness.  The tests compute all of this.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import numpy as np

DARK_FILTER = "invert(0.93) hue-rotate(180deg)"


class Colors(NamedTuple):
    """Hex colours by role, the same in every figure."""

    ink: str = "#1f2937"  # text, the truth
    muted: str = "#5b6470"  # axes, chance, published results
    scratch: str = "#868b93"  # learning from scratch
    pooled: str = "#cf6a10"  # pooled, transfer and nearest-neighbour baselines
    meta: str = "#3f7fd6"  # what was meta-learned
    oracle: str = "#23744f"  # the best possible: Bayes-optimal, exact
    support: str = "#1f2937"
    query: str = "#a8359a"
    classes: tuple[str, ...] = (
        "#3f7fd6", "#cf6a10", "#23744f", "#c0339c", "#a3852f", "#3a93a8", "#c8423f", "#7d62c9",
    )  # fmt: skip


colors = Colors()
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")  # class k, for those who do not see its colour

_ROLES = {
    "scratch": ("scratch", "untrained"),
    "oracle": ("oracle", "bayes", "exact", "ridge", "best possible", "truth", "true "),
    "pooled": ("pool", "fine-tun", "baseline", "nearest", "transfer", "pretrain", "pre-train"),
}


def color_of(label: str) -> str:
    """The colour of the role that a label's words name; a label that names no baseline and no oracle is meta.

    >>> color_of("pooled, fine-tuned") == colors.pooled
    True
    """
    for role, words in _ROLES.items():
        if any(word in label.lower() for word in words):
            return getattr(colors, role)
    return colors.meta


def class_style(k: int) -> tuple[str, str]:
    """Colour and marker of class `k`; from the ninth class on they repeat."""
    return colors.classes[k % len(colors.classes)], MARKERS[k % len(MARKERS)]


def text_color(color: str) -> str:
    """The colour, mixed with ink until small text in it has a contrast of 4.5 on white."""
    mixed = [round(0.55 * int(color[i : i + 2], 16) + 0.45 * int(colors.ink[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


RC: dict[str, Any] = {
    "figure.dpi": 100,
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "none",
    "savefig.dpi": 200,
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "text.color": colors.ink,
    "axes.facecolor": "none",
    "axes.edgecolor": colors.muted,
    "axes.labelcolor": colors.ink,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10.5,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.xmargin": 0.02,
    "axes.axisbelow": True,
    "grid.color": colors.muted,
    "grid.alpha": 0.18,
    "grid.linewidth": 0.8,
    "xtick.color": colors.muted,
    "ytick.color": colors.muted,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "lines.linewidth": 2.0,
    "lines.markersize": 5.5,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 10,
    "image.interpolation": "nearest",
}


def style() -> None:
    """Give all figures drawn from now on the look of the book, and sharp pictures inside Jupyter.

    The one function with an effect outside its arguments: call it in the setup of a chapter.
    """
    import matplotlib
    from cycler import cycler

    matplotlib.rcParams.update(RC)
    matplotlib.rcParams["axes.prop_cycle"] = cycler(color=colors.classes)
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None and hasattr(shell, "kernel"):
        from matplotlib_inline.config import InlineBackend

        InlineBackend.instance(parent=shell).figure_formats = {"retina"}


def to_array(values: Any, name: str, ndim: int | None = None) -> np.ndarray:
    """Numbers as a float64 array: a tensor of any device, with or without gradient, or anything numpy takes.

    Raises:
        ValueError: another number of dimensions than `ndim`, or a value that is not finite.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    array = np.asarray(values, dtype=np.float64)
    if ndim is not None and array.ndim != ndim:
        raise ValueError(f"{name} needs {ndim} dimension{'s' * (ndim != 1)}, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds values that are not finite, in {int((~np.isfinite(array)).sum())} places")
    return array
