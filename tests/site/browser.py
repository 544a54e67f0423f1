"""Walk through the built site with a headless Chromium and note everything that is wrong on each page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from threading import Thread

from metabook.plotting.style import DARK_FILTER

VARIANTS = {
    "light-desktop": ("light", 1280, 900),
    "dark-desktop": ("dark", 1280, 900),
    "light-phone": ("light", 390, 844),
    "dark-phone": ("dark", 390, 844),
}
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

# Errors of MathJax (an unknown command is set in red), formulas it never reached, and text that still looks like TeX.
UNTYPESET = r"""() => {
  const errors = document.querySelectorAll("mjx-merror, mjx-mtext[style*='color: red']");
  const wrong = [...errors].map(e => "error in: " + e.closest("mjx-container").textContent.slice(0, 80));
  for (const box of document.querySelectorAll("article .math"))
    if (!box.querySelector("mjx-container")) wrong.push("not typeset: " + box.textContent.trim().slice(0, 80));
  const walk = document.createTreeWalker(document.querySelector("main") ?? document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const text = walk.currentNode.data, parent = walk.currentNode.parentElement;
    if (parent.closest("pre, code, script, style, mjx-container, .math, textarea")) continue;
    if (/\$\$|\\\(|\\\[|\\begin\{|\$\\[a-z]+/.test(text)) wrong.push("raw: " + text.trim().slice(0, 80));
  }
  return wrong;
}"""

# What stands out of the page to the right; what lies in a box that scrolls or clips by itself is fine.
OVERFLOW = """() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  const wide = [...document.querySelectorAll("main *")].filter(e => e.getBoundingClientRect().right > width + 1);
  return ["page is " + document.documentElement.scrollWidth + " px wide",
          ...wide.slice(0, 5).map(e => e.tagName.toLowerCase() + "." + e.className)];
}"""

# The ground follows the reader's setting; no output and no picture stands on a light panel in the dark.
GROUNDS = r"""([dark, filter]) => {
  const style = e => getComputedStyle(e), start = e => e.outerHTML.slice(0, 99), wrong = [];
  const ground = style(document.body).backgroundColor.match(/\d+/g).slice(0, 3).map(Number);
  if (dark ? Math.max(...ground) >= 60 : Math.min(...ground) <= 230) wrong.push("the ground is " + ground);
  for (const box of document.querySelectorAll("article .cell_output .text_html, article img:not(.on-paper)"))
    if (style(box).backgroundColor !== "rgba(0, 0, 0, 0)") wrong.push("on a panel: " + start(box));
  for (const image of document.querySelectorAll("article .cell_output img:not(.on-paper)"))
    if (style(image).filter !== filter) wrong.push("colours as in the other look: " + start(image));
  return wrong;
}"""

# Most elements of a page are coloured words of its code, and axe would examine them all: of
# every kind the page keeps the first word, so each colour is still seen on each ground that it stands on.
FOLD_CODE = """() => {
  const seen = new Set();
  for (const word of document.querySelectorAll("pre span[class]")) {
    const grounds = [word.closest("div[class*='highlight']"), word.closest(".admonition")];
    const kind = [word, ...grounds].map(e => e?.className).join();
    if (seen.has(kind)) word.replaceWith(...word.childNodes); else seen.add(kind);
  }
}"""

AXE = """async () => {
  const found = await axe.run(document, {resultTypes: ["violations"], preload: false});
  return found.violations.filter(v => ["serious", "critical"].includes(v.impact)).flatMap(v =>
    v.nodes.slice(0, 5).map(n => v.id + " (" + v.impact + ") at " + n.target.join(" ") + ": " +
      n.failureSummary.replace(/\\s+/g, " ").slice(0, 220)));
}"""


@dataclass
class Visit:
    """What was wrong on one page: each list is empty on a good page."""

    page: str
    requests: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)
    maths: list[str] = field(default_factory=list)
    overflow: list[str] = field(default_factory=list)
    grounds: list[str] = field(default_factory=list)
    access: list[str] = field(default_factory=list)


def find_chromium() -> str | None:
    """The browser to drive: `METABOOK_CHROMIUM`, else the first that is on the path."""
    return os.environ.get("METABOOK_CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), None)


def axe_source() -> str:
    """The axe-core script, as the package axe-playwright-python carries it."""
    return files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")


def pages_of(site: Path) -> list[str]:
    """Every page of the site, as an address below its root; not `index.html`, which only leads to the first page."""
    found = (path.relative_to(site).as_posix() for path in site.rglob("*.html"))
    return sorted(page for page in found if page != "index.html" and not page.startswith(("_static/", "_sources/")))


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine for as long as the context lasts; gives its address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()


def settle(page) -> None:
    """Wait until the page's own scripts and its mathematics are done."""
    page.evaluate("async () => { await window.MathJax?.startup?.promise; await document.fonts.ready; }")


@contextmanager
def opened(browser, variant: str, address: str) -> Iterator[tuple]:
    """A tab in one look (light or dark, desktop or phone) that blocks what is not ours; notes go to `visit`."""
    scheme, width, height = VARIANTS[variant]
    context = browser.new_context(
        color_scheme=scheme, viewport={"width": width, "height": height}, reduced_motion="reduce"
    )
    visit = Visit("")

    def gate(route) -> None:
        url = route.request.url
        if url.startswith((address, "data:", "blob:")):
            route.continue_()
        else:
            visit.requests.append(url)
            route.abort()

    context.route("**/*", gate)
    tab = context.new_page()
    tab.on("console", lambda m: visit.console.append(m.text) if m.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: visit.console.append(str(error)))
    tab.on("response", lambda r: visit.console.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    try:
        yield tab, visit
    finally:
        context.close()


def visit_pages(browser, variant: str, address: str, pages: list[str]) -> list[Visit]:
    """Open every page once in one look and examine it."""
    visits, axe = [], axe_source()
    dark = variant.startswith("dark")
    with opened(browser, variant, address) as (tab, notes):
        for page in pages:
            notes.requests, notes.console = [], []
            tab.goto(address + page, wait_until="load")
            settle(tab)
            maths, overflow = tab.evaluate(UNTYPESET), tab.evaluate(OVERFLOW)
            grounds = tab.evaluate(GROUNDS, [dark, DARK_FILTER if dark else "none"])
            tab.evaluate(FOLD_CODE)
            tab.evaluate(axe)
            access = tab.evaluate(AXE)
            visits.append(Visit(page, notes.requests, notes.console, maths, overflow, grounds, access))
    return visits
