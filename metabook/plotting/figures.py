"""Whole pictures: scores with their intervals, decision regions, the course of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from metabook.plotting.marks import check_points, scatter_classes
from metabook.plotting.style import class_style, color_of, colors, to_array

if TYPE_CHECKING:
    from metabook.evaluation import Scores
    from metabook.history import History


def bars(
    scores: Mapping[str, Scores | tuple[float, float]],
    *,
    chance: float | None = None,
    published: Mapping[str, float] | None = None,
    colors_by_name: Mapping[str, str] | None = None,
    xlabel: str | None = None,
    ax: Any = None,
) -> Any:
    """Scores as horizontal bars with their 95 % intervals, the numbers beside them.

    Args:
        scores: by name, from top to bottom; pairs `(mean, half width)` are drawn as plain numbers.
        chance: a dotted line at what guessing gets.
        published: results of papers, drawn as hollow diamonds in rows of their own: not our measurements.
        colors_by_name: where `color_of(name)` is not what is meant.
        xlabel: by default the metric, with what the interval is.
        ax: axes to draw on; a new figure of fitting height by default.

    Returns:
        The matplotlib axes.

    Raises:
        ValueError: no scores, or scores of different metrics.
    """
    import matplotlib.pyplot as plt

    metrics = {getattr(s, "metric", "score") for s in scores.values()}
    if len(metrics) != 1:
        raise ValueError(f"bars needs scores of one metric, got {sorted(metrics) or 'no scores'}")
    percent = metrics == {"accuracy"}
    published, palette, unit = published or {}, colors_by_name or {}, 100 if percent else 1
    names = [*scores, *published]
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 0.6 + 0.36 * len(names)))
    for row, (name, score) in enumerate(scores.items()):
        mean, half = (score.mean, score.ci95) if hasattr(score, "ci95") else score
        color = palette.get(name, color_of(name))
        ax.barh(row, unit * mean, height=0.58, color=color, alpha=0.9)
        ax.errorbar(unit * mean, row, xerr=unit * half, color=colors.ink, capsize=2.5, linewidth=1.3)
        words = str(score) if hasattr(score, "ci95") else f"{mean:.3g} ± {half:.2g}"
        _beside(ax, unit * (mean + half), row, words, colors.ink)
    for row, value in enumerate(published.values(), start=len(scores)):
        ax.plot(unit * value, row, "D", markersize=6.5, markerfacecolor="none", color=colors.muted)
        _beside(ax, unit * value, row, f"{unit * value:.1f} %" if percent else f"{value:.3g}", colors.muted)
    if chance is not None:
        ax.axvline(unit * chance, color=colors.muted, linestyle=":", linewidth=1.4, zorder=3)
        ax.annotate(
            "chance", (unit * chance, 1), (0, 2), ("data", "axes fraction"), "offset points",
            ha="center", va="bottom", fontsize=9, color=colors.muted,
        )  # fmt: skip
    ax.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    ax.tick_params(axis="y", length=0, labelcolor=colors.ink)
    ax.spines["left"].set_visible(False)
    if percent:
        ax.set(xlim=(0, 118), xticks=range(0, 101, 20), xticklabels=[f"{t} %" for t in range(0, 101, 20)])
        ax.spines["bottom"].set_bounds(0, 100)
    else:
        low, high = ax.get_xlim()
        ax.set_xlim(min(1.1 * low, 0), 1.25 * high)
    what = {"accuracy": "query accuracy", "mse": "query mean squared error"}.get(*metrics, *metrics)
    ax.set_xlabel(xlabel or f"{what}, mean and 95 % interval over tasks")
    return ax


def _beside(ax: Any, x: float, y: float, words: str, color: str) -> None:
    ax.annotate(words, (x, y), (7, 0), textcoords="offset points", va="center", fontsize=9.5, color=color)


def decision_regions(
    ax: Any,
    predict: Callable[[Tensor], Tensor],
    *,
    support: tuple[Any, Any] | None = None,
    query: tuple[Any, Any] | None = None,
    prototypes: Any = None,
    bounds: tuple[float, float, float, float] | None = None,
    resolution: int = 240,
) -> Any:
    """Tint the plane by the class that wins there, and draw the points on top.

    Args:
        ax: matplotlib axes; its aspect becomes equal.
        predict: float32 `(m, 2) -> (m, ways)` logits.
        support, query: `(points (n, 2), labels (n,))`.
        prototypes: `(ways, 2)`, drawn as stars.
        bounds: `(x0, x1, y0, y1)`; by default around all points.
        resolution: samples along the wider side.

    Returns:
        The axes.

    Raises:
        ValueError: neither points nor bounds, or logits of another shape.
    """
    sets = [(check_points(*given, kind), kind) for given, kind in ((query, "query"), (support, "support")) if given]
    if prototypes is not None:
        centres = to_array(prototypes, "prototypes", 2)
        sets.append((check_points(centres, range(len(centres)), "prototypes"), "prototype"))
    x0, x1, y0, y1 = bounds or around([points for (points, _), _ in sets])
    step = max(x1 - x0, y1 - y0) / resolution
    xs, ys = np.arange(x0 + step / 2, x1, step), np.arange(y0 + step / 2, y1, step)
    grid = torch.tensor(np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2), dtype=torch.float32)
    with torch.no_grad():
        logits = predict(grid)
    if logits.ndim != 2 or len(logits) != len(grid):
        raise ValueError(f"predict must map ({len(grid)}, 2) to ({len(grid)}, ways), got {tuple(logits.shape)}")
    scores = np.nan_to_num(logits.double().cpu().numpy().T.reshape(-1, len(ys), len(xs)), neginf=-1e9)
    for k, score in enumerate(scores):
        others = np.delete(scores, k, axis=0)
        lead = score - others.max(0) if len(others) else np.ones_like(score)  # positive where class k wins
        color = class_style(k)[0]
        if (lead > 0).any():
            ax.contourf(xs, ys, lead, [0, np.inf], colors=[color], alpha=0.2)
        if (lead > 0).any() and (lead < 0).any():
            ax.contour(xs, ys, lead, [0], colors=[colors.muted], linewidths=0.8)
    for (points, labels), kind in sets:
        scatter_classes(ax, points, labels, kind=kind)
    ax.set(xlim=(x0, x1), ylim=(y0, y1), aspect="equal")
    return ax


def around(sets: list[np.ndarray], margin: float = 0.12) -> tuple[float, float, float, float]:
    """Bounds `(x0, x1, y0, y1)` around points, with a margin on every side."""
    if not sets:
        raise ValueError("without points there is nothing to centre on; give bounds=(x0, x1, y0, y1)")
    low, high = np.concatenate(sets).min(0), np.concatenate(sets).max(0)
    pad = margin * max((high - low).max(), 1e-9)
    (x0, y0), (x1, y1) = low - pad, high + pad
    return float(x0), float(x1), float(y0), float(y1)


def plot_history(history: History, ax: Any = None, *, label: str | None = None, color: str = colors.meta) -> Any:
    """The course of a meta-training run: each step faint, their running mean, validation with its intervals.

    With validation it is the score (accuracy or mean squared error) of training and validation tasks; without,
    the loss.

    Args:
        history: what `meta_train` returned.
        ax: axes to draw on, for instance of another run.
        label: name of the line, for `label_lines`.
        color: of this run.

    Returns:
        The matplotlib axes.

    Raises:
        ValueError: a run without steps.
    """
    import matplotlib.pyplot as plt

    if not history.loss:
        raise ValueError("the history has no steps; train first")
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 3))
    metric = history.validation[0][1].metric if history.validation else "loss"
    unit = 100 if metric == "accuracy" else 1
    values = unit * np.asarray(history.score if history.validation else history.loss)
    window = max(1, len(values) // 40)
    smooth = np.convolve(values, np.ones(window) / window, mode="valid")  # full windows only
    ax.plot(history.steps, values, color=color, alpha=0.22, linewidth=0.8)
    ax.plot(history.steps[window - 1 :], smooth, color=color, label=label)
    if history.validation:
        steps = [step for step, _ in history.validation]
        mean, half = ([unit * getattr(s, part) for _, s in history.validation] for part in ("mean", "ci95"))
        ax.errorbar(
            steps, mean, half, fmt="o", color=colors.ink, markerfacecolor=color, markersize=5, capsize=2.5,
            linewidth=1.2,
        )  # fmt: skip
    names = {"accuracy": "query accuracy, %", "mse": "query mean squared error", "loss": "meta-loss"}
    ax.set(xlabel="meta-training step", ylabel=names.get(metric, metric))
    ax.grid(axis="y")
    return ax
