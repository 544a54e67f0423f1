"""Lead from each page of the API reference back to the chapters that use its module.

A chapter uses a module when its code imports from it, when its prose refers to it with a Python role such as
{py:class}`metabook.optimization.maml.MAML`, or when the two mirror each other: `book/optimization/maml` and
`metabook/optimization/maml.py`.
"""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import nbformat
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config

PACKAGE = "metabook"
ROLE = re.compile(r"\{py:\w+\}`[^`]*?~?\b(" + PACKAGE + r"(?:\.\w+)*)")


def imported_names(code: str) -> Iterator[str]:
    """Full dotted names that a cell imports; lines for the shell (`!`, `%`) are passed over."""
    plain = re.sub(r"^(\s*)[!%].*$", r"\1pass", code, flags=re.MULTILINE)
    try:
        tree = ast.parse(plain)
    except SyntaxError:  # an exercise may show broken code on purpose
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def names_used(notebook: nbformat.NotebookNode) -> set[str]:
    """Every `metabook` name that a notebook imports or refers to."""
    found: set[str] = set()
    for cell in notebook.cells:
        names = ROLE.findall(cell.source) if cell.cell_type == "markdown" else imported_names(cell.source)
        found.update(name for name in names if name.split(".")[0] == PACKAGE)
    return found


def home_of(name: str, modules: Iterable[str], origins: dict[str, str]) -> str | None:
    """The module where a dotted name is defined: follow re-exports, then take the longest module it starts with."""
    seen: set[str] = set()
    while name in origins and name not in seen:
        seen.add(name)
        name = origins[name]
    homes = [module for module in modules if name == module or name.startswith(module + ".")]
    return max(homes, key=len, default=None)


def collect_chapters(app: Sphinx) -> None:
    """Before any page is read: which chapters of the table of contents use which module."""
    modules = set(getattr(app.env, "autoapi_objects", {}))
    objects = getattr(app.env, "autoapi_all_objects", {})
    origins = {
        name: one.obj["original_path"] for name, one in objects.items() if one.obj.get("original_path", name) != name
    }
    users: dict[str, list[str]] = {}
    for document in app.config.external_site_map:
        docname = document.removesuffix(".ipynb")
        path = Path(app.srcdir) / f"{docname}.ipynb"
        if not path.exists():
            continue
        homes = {home_of(name, modules, origins) for name in names_used(nbformat.read(path, as_version=4))}
        mirrored = docname.replace("book/", f"{PACKAGE}/", 1).replace("/", ".")
        for module in homes | ({mirrored} & modules):
            if module and module != PACKAGE:
                users.setdefault(module, []).append(docname)
    app.env.metabook_users = users


def forget_leftovers(app: Sphinx, config: Config) -> None:
    """Remove the pages that autoapi wrote in a build that was cut short; they would be taken for strays."""
    folder = Path(app.srcdir) / config.autoapi_root
    if all(path.suffix == ".rst" for path in folder.rglob("*") if path.is_file()):
        shutil.rmtree(folder, ignore_errors=True)


def add_backlinks(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Under the title of a module's page, name its chapters."""
    prefix = f"{app.config.autoapi_root}/"
    if not docname.startswith(prefix):
        return
    module = docname.removeprefix(prefix).removesuffix("/index").replace("/", ".")
    chapters = app.env.metabook_users.get(module, [])
    title = next(iter(doctree.findall(nodes.title)), None)
    if not chapters or title is None:
        return
    line = nodes.paragraph(classes=["used-in"])
    line += nodes.inline("", "In the book: ", classes=["used-in-label"])
    for place, chapter in enumerate(chapters):
        target = app.builder.get_relative_uri(docname, chapter)
        if place:
            line += nodes.Text(", ")
        line += nodes.reference("", app.env.titles[chapter].astext(), internal=True, refuri=target)
    title.parent.insert(title.parent.index(title) + 1, line)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx: leftovers go before the table of contents is read, and autoapi finds the modules first."""
    app.connect("config-inited", forget_leftovers, priority=100)
    app.connect("builder-inited", collect_chapters, priority=600)
    app.connect("doctree-resolved", add_backlinks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
