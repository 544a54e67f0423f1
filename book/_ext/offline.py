"""Keep every request of a reader's browser on this site.

Jupyter Book fetches MathJax from a content network, and its live-code extension (sphinx-thebe), which the book does
not use, puts another network's address on every page.  Here MathJax is served from the site itself, and the
listeners of sphinx-thebe are removed before they can run.
"""

from __future__ import annotations

from importlib.metadata import distribution
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.fileutil import copy_asset

# What `tex-mml-chtml.js` loads while it runs: its fonts, and the TeX extensions that commands such as \cancel call.
MATHJAX_PARTS = ("tex-mml-chtml.js", "output/chtml/fonts/woff-v2", "input/tex/extensions")

FRONT_DOOR = """<!doctype html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="canonical" href="{start}">
<meta http-equiv="refresh" content="0; url={start}">
</head>
<body><main><h1>{title}</h1><p><a href="{start}">Open the book</a></p></main></body>
</html>
"""


def mathjax_folder() -> Path:
    """The MathJax 3.2.2 files that the package sphinx-mathjax-offline carries."""
    package = distribution("sphinx-mathjax-offline")
    return Path(str(package.locate_file("sphinx-mathjax-offline/static/mathjax")))


def copy_mathjax(app: Sphinx) -> None:
    """Copy what the pages need of MathJax to `_static/mathjax`."""
    if app.builder.format != "html":
        return
    source, target = mathjax_folder(), Path(app.outdir) / "_static" / "mathjax"
    for part in MATHJAX_PARTS:
        into = target / part if (source / part).is_dir() else (target / part).parent
        into.mkdir(parents=True, exist_ok=True)
        copy_asset(source / part, into)


def drop_thebe(app: Sphinx, config: Config) -> None:
    """Disconnect sphinx-thebe: no listener of it runs, no file of it is asked for."""
    for listeners in app.events.listeners.values():
        listeners[:] = [one for one in listeners if not one.handler.__module__.startswith("sphinx_thebe")]
    app.registry.css_files[:] = [one for one in app.registry.css_files if one[0] != "sphinx-thebe.css"]


def write_front_door(app: Sphinx, exception: Exception | None) -> None:
    """Write an `index.html` that leads to the first page, with a title and a language of its own."""
    if exception is None and app.builder.name == "html" and app.config.root_doc != "index":
        page = FRONT_DOOR.format(
            language=app.config.language, title=app.config.html_title, start=f"{app.config.root_doc}.html"
        )
        (Path(app.outdir) / "index.html").write_text(page, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("config-inited", drop_thebe)
    app.connect("builder-inited", copy_mathjax)
    app.connect("build-finished", write_front_door)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
