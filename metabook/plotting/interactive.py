"""Figures that move without a kernel: inline SVG, a range input and a little JavaScript, all in one HTML output.

Frames are computed beforehand in Python.  The HTML is self-contained (no address, no library), holds no id and no
global name, so the same figure may stand twice on a page, and equal input gives equal bytes.  It follows the
reader's theme: text and axes are `currentColor`, series have a colour for each ground.  Without JavaScript the
curves of the first frame stand still; where HTML is not shown, the PNG is.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from metabook.plotting.style import RC, Colors, colors


@dataclass(frozen=True)
class Interactive:
    """What Jupyter shows: HTML on a screen, PNG in print, else text."""

    html: str
    text: str
    draw: Callable[[], Any]  # the matplotlib figure of the first frame

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """All three forms; the PNG as base64, as notebooks store it."""
        png = base64.b64encode(self.png()).decode()
        return {"text/html": self.html, "image/png": png, "text/plain": self.text}

    def png(self) -> bytes:
        """The first frame as a PNG of 200 dots per inch."""
        import matplotlib
        from matplotlib import pyplot as plt

        with matplotlib.rc_context(RC):
            figure = self.draw()
            with io.BytesIO() as file:
                figure.savefig(file, format="png", bbox_inches="tight", metadata={"Software": None})
                plt.close(figure)
                return file.getvalue()


def page(kind: str, body: str, controls: str, data: Any, script: str, css: str = "") -> str:
    """Put a figure together.

    Args:
        kind: the value of `data-metabook-interactive`, by which the script finds its figures.
        body: legend and SVG.
        controls: what the reader moves.
        data: for the script, as JSON.
        script: the body of a function of `root` (the figure's element) and `data`.
        css: rules of this kind of figure.
    """
    packed = json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    return (
        f'<div class="metabook-figure" data-metabook-interactive="{kind}"><style>{_CSS}{css}</style>{body}'
        f'<div class="mb-controls">{controls}</div><script type="application/json">{packed}</script>'
        f"<script>{_START % (kind, script.strip())}</script></div>"
    )


def slider(label: str, low: int, high: int, value: int, shown: str, spoken: str | None = None) -> str:
    """A labelled range input with its live text beside it; `spoken` is what a screen reader says of the value."""
    return (
        f'<label>{escape(label)} <input type="range" min="{low}" max="{high}" step="1" value="{value}" '
        f'aria-label="{escape(label)}" aria-valuetext="{escape(spoken or shown)}" autocomplete="off"></label>'
        f'<output aria-live="polite">{escape(shown)}</output>'
    )


def svg(width: int, height: int, title: str, content: str) -> str:
    """An SVG with an accessible name."""
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>'
        f"{content}</svg>"
    )


def legend(items: list[tuple[str, str]]) -> str:
    """A row of keys, pairs of an `icon` and HTML words, which wraps on phones."""
    keys = "".join(f"<span>{mark}<span>{words}</span></span>" for mark, words in items)
    return f'<div class="mb-legend">{keys}</div>'


def icon(mark: str, half_width: int = 14) -> str:
    """A key of the legend: an SVG mark around the origin, 28 high."""
    shape = "mb-wide" if half_width > 14 else "mb-dot"
    return f'<svg class="{shape}" viewBox="{-half_width} -14 {2 * half_width} 28" aria-hidden="true">{mark}</svg>'


def escape(text: str) -> str:
    """Text as HTML, also within quotes."""
    return html.escape(text, quote=True)


# A figure is found by its kind and started once, be it in the page or (some front ends) in a shadow tree.
_START = (
    "(()=>{const find=n=>{const hits=[...n.querySelectorAll('[data-metabook-interactive=\"%s\"]:not([data-on])')];"
    "return hits.length?hits:[...n.querySelectorAll('*')].flatMap(e=>e.shadowRoot?find(e.shadowRoot):[])};"
    "for(const root of find(document)){root.dataset.on='';"
    "const data=JSON.parse(root.querySelector('[type=\"application/json\"]').textContent);%s}})()"
)

_FLAT = {name: value for name, value in zip(Colors._fields, colors, strict=True) if isinstance(value, str)}
_FLAT |= {f"class{k}": value for k, value in enumerate(colors.classes)}


def _variables() -> str:
    """Custom properties for the roles, and the same colours as the dark page turns them."""
    light = "".join(f"--mb-{name}:{value};" for name, value in _FLAT.items() if name in _SERIES)
    dark = "".join(f"--mb-{name}:{turned(value)};" for name, value in _FLAT.items() if name in _SERIES)
    return (
        f".metabook-figure{{{light}--mb-ground:#fff}}"
        f":is(html[data-theme=dark],html[theme=dark],body[data-jp-theme-light=false],body.vscode-dark) .metabook-figure"
        f"{{{dark}--mb-ground:#14171c}}"
    )


def turned(color: str) -> str:
    """The colour that `DARK_FILTER` makes of a colour (CSS Filter Effects, invert and hueRotate of 180 degrees)."""
    r, g, b = (0.93 - 0.86 * int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    mixed = (
        -0.574 * r + 1.430 * g + 0.144 * b,
        0.426 * r + 0.430 * g + 0.144 * b,
        0.426 * r + 1.430 * g - 0.856 * b,
    )
    return "#" + "".join(f"{round(255 * min(max(channel, 0), 1)):02x}" for channel in mixed)


_SERIES = ("scratch", "pooled", "meta", "oracle", "query", *(f"class{k}" for k in range(8)))

_CSS = (
    _variables()
    + """
.metabook-figure{container-type:inline-size;max-width:46rem;margin:.5rem auto;color:inherit;line-height:1.4;
font-family:inherit}
.metabook-figure svg{display:block;width:100%;height:auto;overflow:visible}
.metabook-figure svg text{fill:currentColor;font-size:20px;font-family:inherit}
.metabook-figure svg *{vector-effect:non-scaling-stroke}
.metabook-figure .mb-legend{display:flex;flex-wrap:wrap;gap:.1rem 1.3rem;margin:0 0 .5rem;font-size:.88rem}
.metabook-figure .mb-legend>span{display:flex;align-items:center;gap:.45rem}
.metabook-figure svg.mb-dot{width:.85rem;height:.85rem;flex:none}
.metabook-figure svg.mb-wide{width:1.8rem;height:.85rem;flex:none}
.metabook-figure b{font-weight:600;font-variant-numeric:tabular-nums}
.metabook-figure .mb-controls{display:flex;flex-wrap:wrap;align-items:center;gap:.3rem .9rem;margin-top:.4rem;
font-size:.92rem}
.metabook-figure label{display:flex;align-items:center;gap:.7rem;flex:1 1 11rem;max-width:26rem;margin:0}
.metabook-figure input{flex:1;min-width:7rem;accent-color:var(--mb-meta)}
.metabook-figure output{font-variant-numeric:tabular-nums;min-width:2.5rem}
.metabook-figure button{font:inherit;color:inherit;background:none;border:1px solid currentColor;border-radius:6px;
padding:.15rem .7rem;cursor:pointer}
@media(prefers-reduced-motion:reduce){.metabook-figure .mb-play{display:none}}
@container(max-width:560px){.metabook-figure svg text{font-size:24px}.metabook-figure .mb-point{r:12px}}
@container(max-width:430px){.metabook-figure svg text{font-size:32px}}
""".replace("\n", "")
)
