"""Interactive figures: self-contained, reproducible, and right in a browser."""

import base64
import json
import re
import shutil
import subprocess

import matplotlib
import numpy as np
import pytest

from metabook.plotting import interactive_curves, interactive_prototypes
from metabook.plotting.prototypes import _CELLS

matplotlib.use("Agg")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NODE = shutil.which("node")

X = np.linspace(-5, 5, 41)
TRUTH = np.sin(X)
FRAMES = {
    "from scratch": np.stack([0.1 * t * np.cos(X) for t in range(4)]),
    "meta-learned": np.stack([TRUTH * t / 3 for t in range(4)]),
}
POINTS = np.random.default_rng(0).normal(size=(3, 4, 2)) + np.array([[0, 0], [4, 0], [2, 3]])[:, None]
QUERIES = (POINTS.reshape(-1, 2) + 0.4, np.array([1] + 3 * [0] + 4 * [1] + 4 * [2]))  # the first label is wrong


def curves(**changes):
    given = {"x": X, "frames": FRAMES, "title": "A sine, twice", "points": (X[::10], TRUTH[::10]), "truth": TRUTH}
    return interactive_curves(**(given | changes))


def prototypes(**changes):
    given = {"points": POINTS, "title": "Three classes", "queries": QUERIES}
    return interactive_prototypes(**(given | changes))


@pytest.mark.parametrize("make", [curves, prototypes])
def test_bundle(make):
    bundle = make()._repr_mimebundle_()
    assert list(bundle) == ["text/html", "image/png", "text/plain"]
    assert bundle == make()._repr_mimebundle_(), "equal input, equal bytes"
    png = base64.b64decode(bundle["image/png"])
    assert png.startswith(b"\x89PNG") and len(png) < 150_000
    json.dumps(bundle)


@pytest.mark.parametrize("make", [curves, prototypes])
def test_html_is_self_contained_small_and_accessible(make):
    html = make().html
    assert len(html) < 16_000
    assert not re.search(r"https?:|src=|@import|url\(|\bid=", html)
    assert len(re.findall("data-metabook-interactive=", html.split("<script")[0])) == 1
    assert re.search(r'<svg viewBox="[^"]+" role="img" aria-label="[^"]+"><title>', html)
    assert re.search(r'<label>[^<]+ <input type="range"[^>]+aria-valuetext="[^"]+"', html)
    assert '<output aria-live="polite">' in html and "prefers-reduced-motion" in html


def test_names_are_escaped():
    html = curves(title='A "<b>', slider_label="<i>", frames={"</script><u>": FRAMES["meta-learned"]}).html
    assert "<u>" not in html and "<b>" not in html.replace("<b data-error>", "") and "<i>" not in html
    assert html.count("</script>") == 2


def test_first_frame_stands_in_the_html_and_is_the_last_by_default():
    drawn = re.findall(r'<path data-curve d="M([^"]+)"', curves().html)
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', curves().html)[1])
    for path, series in zip(drawn, data["y"], strict=True):
        assert path == "L".join(f"{x} {y}" for x, y in zip(data["x"], series[-1], strict=True))
    assert data["error"][1] == [f"{np.mean((TRUTH * (1 - t / 3)) ** 2):.2f}" for t in range(4)]
    assert curves(start=0).png() != curves(start=3).png()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": {}}, r"n = 41 of x.*got \[\]"),
        ({"frames": {"a": np.zeros((4, 40))}}, r"got \[\(4, 40\)\]"),
        ({"frames": {"a": np.zeros((4, 41)), "b": np.zeros((3, 41))}}, r"\(3, 41\), \(4, 41\)"),
        ({"frames": {"a": np.zeros(41)}}, r"frames\['a'\] needs 2 dimensions, got shape \(41,\)"),
        ({"frames": {"a": np.full((4, 41), np.nan)}}, "not finite"),
        ({"x": X[::-1]}, "x must increase"),
        ({"truth": TRUTH[:3]}, r"shape \(41,\) of x, got \(3,\)"),
        ({"points": (X, X[:3])}, r"got \[\(41,\), \(3,\)\]"),
        ({"ticks": [1, 2]}, "4 frames need 4 ticks.*got 2, 3"),
        ({"start": 4}, r"start in 0..3; got 4, 4"),
        ({"limits": (1, 1)}, r"limits.*\(1, 1\)"),
    ],
)
def test_curves_refuse(changes, message):
    with pytest.raises(ValueError, match=message):
        curves(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"points": POINTS[0]}, r"points needs 3 dimensions, got shape \(4, 2\)"),
        ({"points": POINTS[:1]}, r"2 to 8 classes, got \(1, 4, 2\)"),
        ({"points": np.zeros((3, 4, 3))}, r"got \(3, 4, 3\)"),
        ({"names": ["a"]}, "3 classes and 4 shots, but 1 names"),
        ({"start": 0}, "start=0"),
        ({"queries": (np.zeros((2, 2)), [0, 3])}, r"0..2, met 3"),
        ({"bounds": (1, 0, 0, 1)}, r"got \(1, 0, 0, 1\)"),
    ],
)
def test_prototypes_refuse(changes, message):
    with pytest.raises(ValueError, match=message):
        prototypes(**changes)


def test_constant_curves_and_one_frame_are_drawn():
    html = curves(frames={"a": np.zeros((1, 41))}, truth=None, points=None).html
    assert 'class="mb-play"' not in html and "nan" not in html.lower()


# ---- in a browser


def in_browser(page: str, script: str, tmp_path) -> dict:
    """Load a page, run a script in it, and return what it assigns to `result`."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: the behaviour of interactive figures was NOT tested")
    script = f"const result={{}};try{{{script}}}catch(e){{result.error=String(e)}}"
    done = "document.body.innerHTML='<pre>'+btoa(unescape(encodeURIComponent(JSON.stringify(result))))+'</pre>'"
    file = tmp_path / "page.html"
    file.write_text(f"<!doctype html><meta charset=utf-8><body>{page}<script>{script};{done}</script>", "utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    run = subprocess.run([*command, "--dump-dom", file.as_uri()], capture_output=True, text=True, timeout=120)
    found = re.search("<pre>(.*?)</pre>", run.stdout)
    assert found, run.stderr
    result = json.loads(base64.b64decode(found[1]))
    assert "error" not in result, result["error"]
    return result


def evaluated(expression: str, tmp_path):
    """The value of a JavaScript expression, by node or else by Chromium."""
    if NODE is None:
        return in_browser("", f"result.value={expression}", tmp_path)["value"]
    run = subprocess.run([NODE, "-e", f"console.log(JSON.stringify({expression}))"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def inside(point: np.ndarray, polygon: np.ndarray) -> bool:
    """Whether a convex polygon holds a point: it is on one side of all edges."""
    edges, to = np.roll(polygon, -1, 0) - polygon, point - polygon
    turn = edges[:, 0] * to[:, 1] - edges[:, 1] * to[:, 0]
    return bool((turn > 0).all() or (turn < 0).all())


def test_cells_hold_exactly_the_points_nearest_to_their_mean(tmp_path):
    rng = np.random.default_rng(1)
    size = np.array([1000, 640])
    means = [rng.uniform(-0.1, 1.1, (ways, 2)) * size for ways in (2, 3, 3, 5, 8, 8)]  # some outside the box
    means.append(np.array([[300.0, 300], [300, 300], [700, 300]]))  # two prototypes in one place
    expression = f"(()=>{{{_CELLS}return {json.dumps([m.tolist() for m in means])}.map(m=>cells(m,[1000,640]))}})()"
    for centres, cells in zip(means, evaluated(expression, tmp_path), strict=True):
        cells = [np.array(cell).reshape(-1, 2) for cell in cells]
        for point in rng.uniform(0, 1, (300, 2)) * size:
            nearest = np.square(centres - point).sum(1).argmin()  # the first of equals, as torch.argmin takes
            holding = [k for k, cell in enumerate(cells) if len(cell) and inside(point, cell)]
            assert holding == [nearest]


def test_the_slider_moves_every_copy_of_the_curves(tmp_path):
    figure = curves(start=0)
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', figure.html)[1])
    result = in_browser(
        figure.html + "<p>" + figure.html,
        """
        const roots=[...document.querySelectorAll('[data-metabook-interactive]')];
        const shown=r=>({d:r.querySelectorAll('[data-curve]')[1].getAttribute('d'),
            text:r.querySelector('output').textContent,error:r.querySelectorAll('[data-error]')[1].textContent,
            says:r.querySelector('input').getAttribute('aria-valuetext')});
        result.before=shown(roots[1]);
        const input=roots[1].querySelector('input');input.value=2;input.dispatchEvent(new Event('input'));
        result.after=shown(roots[1]);result.other=shown(roots[0]);
        roots[0].querySelector('.mb-play').click();result.played=shown(roots[0]);
        roots[0].querySelector('.mb-play').click();
        result.globals=['show','data','root','curves','timer'].filter(n=>eval('typeof '+n)!=='undefined');
        """,
        tmp_path,
    )
    expected = "M" + "L".join(f"{x} {y}" for x, y in zip(data["x"], data["y"][1][2], strict=True))
    assert result["after"]["d"] == expected != result["before"]["d"]
    assert result["after"]["text"] == "2" and result["after"]["error"] == data["error"][1][2]
    assert "meta-learned" in result["after"]["says"]
    assert result["other"] == result["before"] and result["played"]["text"] == "1"
    assert result["globals"] == []


def test_a_figure_in_a_shadow_tree_starts(tmp_path):
    result = in_browser(
        f"<div></div><template>{curves(start=0).html}</template>",
        """
        const shadow=document.querySelector('div').attachShadow({mode:'open'});
        shadow.append(document.querySelector('template').content.cloneNode(true));
        const script=document.createElement('script');
        script.textContent=shadow.querySelectorAll('script')[1].textContent;document.body.append(script);
        const input=shadow.querySelector('input');input.value=3;input.dispatchEvent(new Event('input'));
        result.text=shadow.querySelector('output').textContent;
        """,
        tmp_path,
    )
    assert result["text"] == "3"


def test_prototypes_follow_shots_keys_and_drags(tmp_path):
    result = in_browser(
        f'<div style="width:600px">{prototypes().html}</div>',
        """
        const root=document.querySelector('[data-metabook-interactive]'),input=root.querySelector('input');
        const handle=root.querySelector('.mb-handle'),size=JSON.parse(root.querySelector('script').textContent).size;
        const state=()=>({star:root.querySelector('[data-mean]').getAttribute('transform'),
            point:root.querySelector('[data-point]').getAttribute('transform'),
            cell:root.querySelector('[data-cell]').getAttribute('d'),text:root.querySelector('output').textContent,
            hidden:[...root.querySelectorAll('.mb-handle')].filter(h=>h.hidden).length});
        result.start=state();
        input.value=1;input.dispatchEvent(new Event('input'));result.one=state();
        handle.dispatchEvent(new KeyboardEvent('keydown',{key:'ArrowRight'}));result.key=state();
        handle.setPointerCapture=()=>{};handle.hasPointerCapture=()=>true;
        const box=root.querySelector('.mb-stage').getBoundingClientRect();
        const move=(x,y)=>handle.dispatchEvent(new PointerEvent('pointermove',{clientX:x,clientY:y}));
        move(box.left+box.width/2,box.top+box.height/4);result.drag=state();
        move(-9999,-9999);result.out=state();
        result.size=size;
        """,
        tmp_path,
    )
    html, place = prototypes().html, re.compile(r"translate\((-?\d+) (-?\d+)\)")
    support = json.loads(re.search(r'<script type="application/json">(.*?)</script>', html)[1])["support"]
    at = {name: [int(v) for v in place.match(result[name]["point"]).groups()] for name in ("one", "key", "drag", "out")}
    stars = {name: [int(v) for v in place.match(result[name]["star"]).groups()] for name in ("start", "one", "drag")}
    assert np.abs(np.mean(support[0], 0) - stars["start"]).max() <= 0.5 and result["start"]["hidden"] == 0
    assert stars["one"] == support[0][0] == at["one"] and result["one"]["hidden"] == 9
    assert at["key"] == [at["one"][0] + 15, at["one"][1]]
    width, height = result["size"]
    assert np.abs(np.array(at["drag"]) - [width / 2, height / 4]).max() <= 1 and stars["drag"] == at["drag"]
    assert at["out"] == [0, 0], "a point stays within the drawing"
    assert len({result[name]["cell"] for name in ("start", "one", "key", "drag", "out")}) == 5
    means = POINTS.mean(1)
    right = (np.square(QUERIES[0][:, None] - means).sum(-1).argmin(1) == QUERIES[1]).sum()
    assert right < 12 and result["start"]["text"] == f"4 of 4; {right} of 12 queries right"
    assert f">{result['start']['text']}</output>" in html, "python and the browser agree"
