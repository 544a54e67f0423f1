"""Curves over steps, moved by a slider: how fits change as learning goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metabook.plotting.interactive import Interactive, escape, icon, legend, page, slider, svg
from metabook.plotting.style import Colors, color_of, colors, to_array

_WIDTH, _HEIGHT = 1000, 520  # of the drawing, in its own units
_BOX = (64, 44, 984, 444)  # left, top, right, bottom of the axes
_DASHES = {"scratch": (2, 3.5), "pooled": (9, 3.5), "oracle": (9, 3, 2, 3)}  # for those who do not see colours


def interactive_curves(
    x: Any,
    frames: Mapping[str, Any],
    *,
    title: str,
    points: tuple[Any, Any] | None = None,
    truth: Any = None,
    slider_label: str = "inner steps",
    x_label: str = "x",
    y_label: str = "y",
    ticks: Sequence[Any] | None = None,
    start: int | None = None,
    limits: tuple[float, float] | None = None,
) -> Interactive:
    """Curves that a slider moves from frame to frame, with their error against the truth as they go.

    The colour of a series is `color_of(name)`.

    Args:
        x: `(n,)`, increasing.
        frames: by name, `(frames, n)` each.
        title: what the figure shows, in a sentence; it is the drawing's accessible name.
        points: `x (k,)` and `y (k,)` of the support set.
        truth: `(n,)`, drawn dashed; the legend then holds each curve's mean squared error against it.
        slider_label: what the slider counts.
        x_label, y_label: of the axes.
        ticks: what each frame is called, 0, 1, 2, ... by default.
        start: frame shown first and in print, the last by default.
        limits: of y; by default the points, the truth and the middle 98 % of the curves fit in.

    Returns:
        An object that Jupyter shows as HTML, PNG or text.

    Raises:
        ValueError: shapes that do not fit each other, values that are not finite, a start outside the frames,
            empty limits.
    """
    x = to_array(x, "x", 1)
    series = {name: to_array(curve, f"frames[{name!r}]", 2) for name, curve in frames.items()}
    shapes = {curve.shape for curve in series.values()}
    if len(shapes) != 1 or len(x) < 2 or next(iter(shapes))[1:] != x.shape or not next(iter(shapes))[0]:
        raise ValueError(f"frames need one shape (frames, n) with n = {len(x)} of x, at least 2; got {sorted(shapes)}")
    if (np.diff(x) <= 0).any():
        raise ValueError("x must increase")
    steps = next(iter(shapes))[0]
    ticks = [str(tick) for tick in (range(steps) if ticks is None else ticks)]
    start = steps - 1 if start is None else start
    if len(ticks) != steps or not 0 <= start < steps:
        raise ValueError(f"{steps} frames need {steps} ticks and a start in 0..{steps - 1}; got {len(ticks)}, {start}")
    if truth is not None:
        truth = to_array(truth, "truth", 1)
        if truth.shape != x.shape:
            raise ValueError(f"truth needs the shape {x.shape} of x, got {truth.shape}")
    support = None if points is None else tuple(to_array(v, "points", 1) for v in points)
    if support is not None and (len(support) != 2 or support[0].shape != support[1].shape):
        raise ValueError(f"points are x and y of one shape, got {[part.shape for part in support]}")
    low, high = limits or _limits(series, truth, support)
    if not low < high:
        raise ValueError(f"limits are (low, high) with low < high, got {(low, high)}")
    errors = {} if truth is None else {n: [f"{e:.2f}" for e in _error(c, truth)] for n, c in series.items()}

    left, top, right, bottom = _BOX
    sx = np.round(left + (right - left) * (x - x[0]) / (x[-1] - x[0])).astype(int)

    def sy(y: np.ndarray) -> np.ndarray:
        scaled = bottom - (bottom - top) * (np.asarray(y) - low) / (high - low)
        return np.round(scaled.clip(top - 2 * _HEIGHT, bottom + 2 * _HEIGHT)).astype(int)

    def path(y: np.ndarray) -> str:
        return "M" + "L".join(f"{a} {b}" for a, b in zip(sx, sy(y), strict=True))

    marks = [_axes(x, low, high, x_label, y_label, sy)]
    # A nested svg cuts off what leaves the axes, without the id that a clip path would need.
    marks.append(
        f'<svg x="{left}" y="{top}" width="{right - left}" height="{bottom - top}" overflow="hidden" '
        f'viewBox="{left} {top} {right - left} {bottom - top}" style="overflow:hidden;width:auto">'
    )
    if truth is not None:
        marks.append(f'<path d="{path(truth)}" fill="none" {_TRUTH}/>')
    for name, curve in series.items():
        marks.append(f'<path data-curve d="{path(curve[start])}" fill="none" {_pen(name)}/>')
    marks.append("</svg>")
    if support is not None:
        for a, b in zip(*support, strict=True):
            cx = left + (right - left) * (a - x[0]) / (x[-1] - x[0])
            marks.append(f'<circle cx="{cx:.0f}" cy="{sy(b)}" r="8" class="mb-point" {_POINT}/>')

    told = {n: f": error <b data-error>{errors[n][start]}</b>" if errors else "" for n in series}
    keys = [(_line(_pen(n)), escape(n) + error) for n, error in told.items()]
    keys += [] if truth is None else [(_line(_TRUTH), "truth")]
    keys += [] if support is None else [(icon(f'<circle r="9" {_POINT}/>'), "support")]
    words = _words(ticks[start], errors, start)
    body = legend(keys) + svg(_WIDTH, _HEIGHT, title, "".join(marks))
    play = '<button type="button" class="mb-play">Play</button>' if steps > 2 else ""
    controls = slider(slider_label, 0, steps - 1, start, ticks[start], words)
    data = {
        "x": sx.tolist(),
        "y": [[sy(frame).tolist() for frame in curve] for curve in series.values()],
        "error": list(errors.values()),
        "tick": ticks,
        "says": [_words(tick, errors, t) for t, tick in enumerate(ticks)],
    }

    def draw() -> Any:
        return _figure(x, {n: c[start] for n, c in series.items()}, truth, support, (low, high),
                       f"{slider_label}: {ticks[start]}", x_label, y_label)  # fmt: skip

    text = f"Curves of {', '.join(series)} over {slider_label} {ticks[0]} to {ticks[-1]}"
    return Interactive(page("curves", body, play + controls, data, _SCRIPT), text, draw)


def _limits(series: dict[str, np.ndarray], truth: Any, support: Any) -> tuple[float, float]:
    values = np.concatenate([curve.ravel() for curve in series.values()])
    must = [np.quantile(values, (0.01, 0.99))]
    must += [] if truth is None else [truth]
    must += [] if support is None else [support[1]]
    low, high = (float(end(np.concatenate(must))) for end in (np.min, np.max))
    pad = 0.06 * (high - low) or 1.0
    return low - pad, high + pad


def _error(curve: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return np.square(curve - truth).mean(-1)


def _words(tick: str, errors: dict[str, list[str]], t: int) -> str:
    told = "; ".join(f"{name} {error[t]}" for name, error in errors.items())
    return f"{tick}: mean squared error {told}" if errors else tick


def _role(name: str) -> str:
    color = color_of(name)
    return next(field for field in Colors._fields if getattr(colors, field) == color)


def _pen(name: str) -> str:
    role = _role(name)
    dash = f' stroke-dasharray="{" ".join(map(str, _DASHES[role]))}"' if role in _DASHES else ""
    return f'stroke="var(--mb-{role})" stroke-width="2.6" stroke-linejoin="round"{dash}'


_TRUTH = 'stroke="currentColor" stroke-width="1.4" stroke-dasharray="3 4" opacity=".8"'
_POINT = 'fill="currentColor" stroke="var(--mb-ground)" stroke-width="1.5"'


def _line(pen: str) -> str:
    return icon(f'<path d="M-29 0H29" fill="none" {pen}/>', 30)


def _axes(x: np.ndarray, low: float, high: float, x_label: str, y_label: str, sy: Any) -> str:
    """Two lines, a few numbers at them and their names."""
    left, top, right, bottom = _BOX
    out = [f'<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="currentColor" opacity=".55"/>']
    for value in _ticks(float(x[0]), float(x[-1])):
        at = left + (right - left) * (value - x[0]) / (x[-1] - x[0])
        out.append(f'<text x="{at:.0f}" y="{bottom + 34}" text-anchor="middle" opacity=".85">{_number(value)}</text>')
    for value in _ticks(low, high):
        out.append(f'<text x="{left - 10}" y="{sy(value) + 6}" text-anchor="end" opacity=".85">{_number(value)}</text>')
    out.append(f'<text x="{(left + right) // 2}" y="{bottom + 68}" text-anchor="middle">{escape(x_label)}</text>')
    out.append(f'<text x="{left - 40}" y="{top - 14}">{escape(y_label)}</text>')
    return "".join(out)


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers between two."""
    raw = (high - low) / 5
    power = 10.0 ** np.floor(np.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw)
    return [float(k * step) for k in range(int(np.ceil(low / step)), int(np.floor(high / step)) + 1)]


def _number(value: float) -> str:
    return f"{value:g}".replace("-", "\u2212")


def _figure(
    x: np.ndarray, curves: dict[str, np.ndarray], truth: Any, support: Any, limits: tuple[float, float], title: str,
    x_label: str, y_label: str,
) -> Any:  # fmt: skip
    from matplotlib import pyplot as plt

    fig, ax = plt.subplots(figsize=(7, 3.7))
    if truth is not None:
        ax.plot(x, truth, color=colors.ink, linestyle=(0, (3, 3)), linewidth=1.2, label="truth")
    for name, y in curves.items():
        dashes = [d / 2 for d in _DASHES.get(_role(name), ())]  # matplotlib counts in line widths
        ax.plot(x, y, color=color_of(name), linestyle=(0, dashes) if dashes else "-", label=name)
    if support is not None:
        ax.plot(*support, "o", color=colors.support, label="support")
    ax.set(ylim=limits, title=title, xlabel=x_label, ylabel=y_label)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


_SCRIPT = """
const input=root.querySelector('input'),out=root.querySelector('output'),play=root.querySelector('.mb-play');
const curves=root.querySelectorAll('[data-curve]'),errors=root.querySelectorAll('[data-error]');let timer=0;
const show=()=>{const t=+input.value;
curves.forEach((c,k)=>c.setAttribute('d','M'+data.y[k][t].map((y,i)=>data.x[i]+' '+y).join('L')));
errors.forEach((e,k)=>e.textContent=data.error[k][t]);
out.textContent=data.tick[t];input.setAttribute('aria-valuetext',data.says[t])};
const stop=()=>{clearInterval(timer);timer=0;play&&(play.textContent='Play')};
input.addEventListener('input',()=>{stop();show()});
play&&play.addEventListener('click',()=>{if(timer)return stop();
if(+input.value>=+input.max)input.value=0;else input.stepUp();show();play.textContent='Stop';
timer=setInterval(()=>{if(+input.value>=+input.max||!root.isConnected)return stop();input.stepUp();show()},600)});
"""
