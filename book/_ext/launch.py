"""Under the title of each chapter: run it on Colab, or take the notebook home.

The theme hides both in small icons.  The address is the one of `repository` in `_config.yml`.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.osutil import relative_uri

LINKS = """<p class="launch">
<a class="reference external" href="{colab}">Run it on Colab</a>
<a class="reference internal" href="{notebook}" download>Download the notebook</a>
</p>"""


def colab_address(repository: str, branch: str, path: str) -> str:
    """The address at which Colab opens a file of a GitHub repository."""
    return f"https://colab.research.google.com/github/{repository.removeprefix('https://github.com/')}/blob/{branch}/{path}"


def add_links(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Set the two links below the first title of a page that is a notebook."""
    title = next(iter(doctree.findall(nodes.title)), None)
    if app.builder.format != "html" or title is None or Path(app.env.doc2path(docname)).suffix != ".ipynb":
        return
    options, path = app.config.html_theme_options, f"{docname}.ipynb"
    html = LINKS.format(
        colab=escape(colab_address(options["repository_url"], options["repository_branch"], path)),
        notebook=escape(relative_uri(app.builder.get_target_uri(docname), f"_sources/{path}")),
    )
    title.parent.insert(title.parent.index(title) + 1, nodes.raw("", html, format="html"))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("doctree-resolved", add_links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
