"""Prototypes and their regions, to be moved by hand: class means and nearest-mean cells, recomputed in the browser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from metabook.plotting.figures import around
from metabook.plotting.interactive import Interactive, escape, icon, legend, page, slider, svg
from metabook.plotting.marks import check_points, scatter_classes
from metabook.plotting.style import colors, to_array

_WIDTH = 1000  # of the drawing, in its own units


def interactive_prototypes(
    points: Any,
    *,
    title: str,
    names: Sequence[str] | None = None,
    queries: tuple[Any, Any] | None = None,
    bounds: tuple[float, float, float, float] | None = None,
    start: int | None = None,
) -> Interactive:
    """Support points to drag (mouse, touch, or Tab and the arrow keys) and a slider over the number of shots.

    A class's prototype is the mean of its first `shots` points; its region is where it is the nearest prototype.

    Args:
        points: `(classes, shots, 2)`, at least two classes.
        title: what the figure shows, in a sentence; it is the drawing's accessible name.
        names: of the classes, A, B, C, ... by default.
        queries: `(points (n, 2), labels (n,))`; their accuracy under the nearest prototype is shown live.
        bounds: `(x0, x1, y0, y1)`, by default around all points.
        start: shots counted first and in print, all by default.

    Returns:
        An object that Jupyter shows as HTML, PNG or text.

    Raises:
        ValueError: other shapes, labels outside the classes, a start outside 1..shots, empty bounds.
    """
    points = to_array(points, "points", 3)
    classes, shots, dims = points.shape
    if not 2 <= classes <= len(colors.classes) or not shots or dims != 2:
        raise ValueError(f"points need shape (classes, shots, 2) with 2 to 8 classes, got {points.shape}")
    names = [chr(ord("A") + k) for k in range(classes)] if names is None else list(names)
    start = shots if start is None else start
    if len(names) != classes or not 1 <= start <= shots:
        raise ValueError(f"{classes} classes and {shots} shots, but {len(names)} names and start={start}")
    asked, labels = check_points(*queries, "queries") if queries is not None else (np.zeros((0, 2)), np.zeros(0, int))
    if len(labels) and labels.max() >= classes:
        raise ValueError(f"labels of queries must lie in 0..{classes - 1}, met {labels.max()}")
    x0, x1, y0, y1 = bounds or _wide(*around([points.reshape(-1, 2), asked]))
    if not (x0 < x1 and y0 < y1):
        raise ValueError(f"bounds are (x0, x1, y0, y1) with x0 < x1 and y0 < y1, got {(x0, x1, y0, y1)}")
    height = round(_WIDTH * (y1 - y0) / (x1 - x0))

    def place(p: np.ndarray) -> np.ndarray:  # one scale for both directions, so the nearest stays the nearest
        scale = _WIDTH / (x1 - x0)
        return np.round(np.stack([(p[..., 0] - x0) * scale, (y1 - p[..., 1]) * scale], -1)).astype(int)

    support, asked_at = place(points), place(asked)
    data = {
        "size": [_WIDTH, height],
        "support": support.tolist(),
        "queries": [[*p, k] for p, k in zip(asked_at.tolist(), labels.tolist(), strict=True)],
    }
    keys = [(icon(f'<path d="{_SHAPES[k]}" fill="var(--mb-class{k})"/>'), escape(n)) for k, n in enumerate(names)]
    keys += [(icon(f'<path d="{_STAR}" transform="scale(.54)" fill="currentColor"/>'), "prototype")]
    drawing = svg(_WIDTH, height, title, _drawing(support, asked_at, labels, start))
    stage = f'<div class="mb-stage">{drawing}{_handles(support, names, start, height)}</div>'
    words = _words(start, shots, support, asked_at, labels)
    controls = slider("shots", 1, shots, start, words)
    html = page("prototypes", legend(keys) + stage, controls, data, _CELLS + _SCRIPT, _CSS)

    def draw() -> Any:
        return _figure(points, asked, labels, start, (x0, x1, y0, y1))

    return Interactive(html, f"Prototypes of {classes} classes, {shots} shots, {len(asked)} queries", draw)


def _wide(x0: float, x1: float, y0: float, y1: float) -> tuple[float, float, float, float]:
    """Bounds at least 1.5 times as wide as high, which a screen holds together with the slider."""
    more = max(0.0, 1.5 * (y1 - y0) - (x1 - x0)) / 2
    return x0 - more, x1 + more, y0, y1


def _words(shown: int, shots: int, support: np.ndarray, asked: np.ndarray, labels: np.ndarray) -> str:
    words = f"{shown} of {shots}"
    if not len(labels):
        return words
    means = support[:, :shown].mean(1)
    right = int((np.square(asked[:, None] - means).sum(-1).argmin(1) == labels).sum())
    return f"{words}; {right} of {len(labels)} queries right"


_SHAPES = (
    "M-11 0a11 11 0 1 0 22 0a11 11 0 1 0-22 0", "M-10-10H10V10H-10Z", "M0-13L12 9H-12Z", "M0-14L12 0L0 14L-12 0Z",
    "M0 13L12-9H-12Z", "M-4-12H4V-4H12V4H4V12H-4V4H-12V-4H-4Z",
    "M-12-7L-7-12L0-5L7-12L12-7L5 0L12 7L7 12L0 5L-7 12L-12 7L-5 0Z",
    "M0-13L12-4L8 11H-8L-12-4Z",
)  # fmt: skip
_STAR = "M0-26L7-9L25-8L11 4L16 22L0 12L-16 22L-11 4L-25-8L-7-9Z"


def _drawing(support: np.ndarray, asked: np.ndarray, labels: np.ndarray, shown: int) -> str:
    """Regions, queries, spokes from each point to its prototype, points and prototypes; the script moves them."""
    classes, shots, _ = support.shape
    means = support[:, :shown].mean(1)
    out = [f'<path data-cell class="mb-cell" fill="var(--mb-class{k})" d=""/>' for k in range(classes)]
    for (x, y), k in zip(asked, labels, strict=True):
        out.append(
            f'<path data-query d="{_SHAPES[k]}" transform="translate({x} {y})scale(.55)" fill="none" '
            f'stroke="var(--mb-class{k})" stroke-width="1.4"/>'
        )
    for k in range(classes):
        spokes = "".join(f"M{x} {y}L{means[k, 0]:.0f} {means[k, 1]:.0f}" for x, y in support[k, :shown])
        out.append(f'<path data-spokes d="{spokes}" stroke="var(--mb-class{k})" stroke-width="1.2" opacity=".7"/>')
    for k in range(classes):
        for i, (x, y) in enumerate(support[k]):
            faint = "" if i < shown else ' opacity=".25"'
            out.append(
                f'<path data-point d="{_SHAPES[k]}" transform="translate({x} {y})" fill="var(--mb-class{k})" '
                f'stroke="var(--mb-ground)" stroke-width="1"{faint}/>'
            )
    for k, (x, y) in enumerate(means):
        out.append(
            f'<path data-mean d="{_STAR}" transform="translate({x:.0f} {y:.0f})" fill="var(--mb-class{k})" '
            f'stroke="currentColor" stroke-width="1.5"/>'
        )
    return "".join(out)


def _handles(support: np.ndarray, names: list[str], shown: int, height: int) -> str:
    """A transparent button on each point: focus, keyboard and touch come with it."""
    out = []
    for k, name in enumerate(names):
        for i, (x, y) in enumerate(support[k]):
            out.append(
                f'<button type="button" class="mb-handle" aria-label="{escape(name)}, support point {i + 1}: drag, '
                f'or move with the arrow keys" style="left:{x / _WIDTH:.2%};top:{y / height:.2%}"'
                f"{'' if i < shown else ' hidden'}></button>"
            )
    return "".join(out)


def _figure(points: np.ndarray, asked: np.ndarray, labels: np.ndarray, shown: int, bounds: Any) -> Any:
    import torch
    from matplotlib import pyplot as plt

    from metabook.plotting.figures import decision_regions

    x0, x1, y0, y1 = bounds
    classes = len(points)
    means = points[:, :shown].mean(1)
    centres = torch.tensor(means, dtype=torch.float32)
    fig, ax = plt.subplots(figsize=(6, 6 * (y1 - y0) / (x1 - x0)))
    decision_regions(ax, lambda x: -torch.cdist(x, centres), prototypes=means, bounds=bounds)
    if len(labels):
        scatter_classes(ax, asked, labels, kind="query")
    scatter_classes(ax, points[:, :shown].reshape(-1, 2), np.repeat(np.arange(classes), shown))
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return fig


_CSS = (
    ".mb-stage{position:relative}.mb-stage>svg{border-radius:8px}.mb-cell{fill-opacity:.2;stroke:var(--mb-ground);"
    "stroke-width:2}.metabook-figure .mb-handle{position:absolute;width:32px;height:32px;margin:-16px 0 0 -16px;"
    "padding:0;border:0;border-radius:50%;background:none;cursor:grab;touch-action:none}"
    ".metabook-figure .mb-handle:hover,.metabook-figure .mb-handle:focus-visible{outline:2px solid currentColor}"
    ".metabook-figure .mb-handle[hidden]{display:none}.metabook-figure .mb-wrong{stroke:currentColor;stroke-width:2.4}"
)

# The region of a mean is the box cut by the half-plane nearer to it than to each other mean.
_CELLS = """
const cells=(means,[w,h])=>means.map((a,k)=>means.reduce((poly,b,j)=>{if(j===k)return poly;
const n=[b[0]-a[0],b[1]-a[1]],m=n[0]*(a[0]+b[0])/2+n[1]*(a[1]+b[1])/2,side=p=>n[0]*p[0]+n[1]*p[1]-m;
if(!n[0]&&!n[1])return j<k?[]:poly;
return poly.flatMap((p,i)=>{const q=poly[(i+1)%poly.length],s=side(p),t=side(q),cut=s/(s-t);
return[...(s<=0?[p]:[]),...(s*t<0?[[p[0]+cut*(q[0]-p[0]),p[1]+cut*(q[1]-p[1])]]:[])]})},[[0,0],[w,0],[w,h],[0,h]]));
"""

_SCRIPT = """
const $=s=>[...root.querySelectorAll(s)],[w,h]=data.size,points=data.support,shots=points[0].length;
const input=root.querySelector('input'),out=root.querySelector('output'),stage=root.querySelector('.mb-stage');
const [fills,spokes,dots,stars,asked,handles]=['cell','spokes','point','mean','query'].map(n=>$('[data-'+n+']'))
.concat([$('.mb-handle')]),at=(e,p)=>e.setAttribute('transform','translate('+p.map(Math.round).join(' ')+')');
const show=()=>{const n=+input.value;
const means=points.map(c=>[0,1].map(d=>c.slice(0,n).reduce((s,p)=>s+p[d],0)/n));
cells(means,[w,h]).forEach((c,k)=>fills[k].setAttribute('d',c.length?'M'+c.map(p=>p.map(v=>v.toFixed(1)).join(' '))
.join('L')+'Z':''));
points.forEach((c,k)=>{spokes[k].setAttribute('d',c.slice(0,n).map(p=>'M'+p.join(' ')+'L'+means[k].map(Math.round)
.join(' ')).join(''));at(stars[k],means[k]);c.forEach((p,i)=>{const e=k*shots+i,on=i<n;at(dots[e],p);
dots[e].setAttribute('opacity',on?1:.25);handles[e].hidden=!on;
handles[e].style.left=100*p[0]/w+'%';handles[e].style.top=100*p[1]/h+'%'})});
let right=0;data.queries.forEach(([x,y,label],i)=>{const d=means.map(m=>(m[0]-x)**2+(m[1]-y)**2);
const ok=d.indexOf(Math.min(...d))===label;right+=ok;asked[i].classList.toggle('mb-wrong',!ok)});
const says=n+' of '+shots+(asked.length?'; '+right+' of '+asked.length+' queries right':'');
out.textContent=says;input.setAttribute('aria-valuetext',says)};
const move=(p,x,y)=>{p[0]=Math.round(Math.min(Math.max(x,0),w));p[1]=Math.round(Math.min(Math.max(y,0),h));show()};
handles.forEach((b,e)=>{const p=points[Math.floor(e/shots)][e%shots];
b.addEventListener('pointerdown',v=>{b.setPointerCapture(v.pointerId);b.focus();v.preventDefault()});
b.addEventListener('pointermove',v=>{if(!b.hasPointerCapture(v.pointerId))return;const r=stage.getBoundingClientRect();
move(p,(v.clientX-r.left)/r.width*w,(v.clientY-r.top)/r.height*h)});
b.addEventListener('keydown',v=>{const a={ArrowLeft:[-1,0],ArrowRight:[1,0],ArrowUp:[0,-1],ArrowDown:[0,1]}[v.key];
if(a){v.preventDefault();const s=v.shiftKey?50:15;move(p,p[0]+s*a[0],p[1]+s*a[1])}})});
input.addEventListener('input',show);show();
"""
