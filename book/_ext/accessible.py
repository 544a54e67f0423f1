"""Let nobody be left out: each picture has words, and the markup says what it is.

The build warns about (and `-W` refuses) a picture without a text alternative.  What Sphinx itself writes wrongly into
the body of a page is mended here; what the theme's frame lacks, `_static/book.js` adds.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)
SIGNATURE = re.compile(r'<dl>\s*(<dd><em class="sig-param">.*?)</dl>', re.DOTALL)
LINE = re.compile(r"<dd>(.*?)</dd>", re.DOTALL)


def require_alt(app: Sphinx, doctree: nodes.document) -> None:
    """Warn about every picture that has no text alternative."""
    for image in doctree.findall(nodes.image):
        if not image.get("alt", "").strip():
            LOGGER.warning(
                "a picture has no text alternative: give its cell the metadata "
                '{"mystnb": {"image": {"alt": "..."}}}, or its Markdown image words in the brackets',
                location=image if image.line else app.env.docname,
                type="metabook",
                subtype="alt",
            )


def mend(html: str) -> str:
    """Put right what Sphinx writes against the rules of HTML, in the body of a page.

    A signature of several lines is a definition list without terms: it becomes plain lines.  The bibliography calls
    itself a list, and its entries by a role that no longer exists: both are plain paragraphs here.
    """
    html = SIGNATURE.sub(lambda found: LINE.sub(r'<span class="sig-line">\1</span>', found[1]), html)
    return html.replace('role="list" class="citation-list"', 'class="citation-list"').replace(
        ' role="doc-biblioentry"', ""
    )


def mend_page(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Mend the body of a page just before it is set into the theme's frame."""
    if "body" in context:
        context["body"] = mend(context["body"])


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("doctree-read", require_alt)
    app.connect("html-page-context", mend_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
