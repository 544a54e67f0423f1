"""The local Sphinx extensions, without building anything."""

from __future__ import annotations

import importlib.util
import re

import pytest

if importlib.util.find_spec("sphinx") is None:
    pytest.skip("the book's tools (extra `book`) are not installed", allow_module_level=True)

import accessible
import backlinks
import launch
import nbformat
import offline
from docutils import nodes
from docutils.utils import new_document


def notebook(*cells: tuple[str, str]) -> nbformat.NotebookNode:
    make = {"md": nbformat.v4.new_markdown_cell, "py": nbformat.v4.new_code_cell}
    return nbformat.v4.new_notebook(cells=[make[kind](source) for kind, source in cells])


def test_names_in_prose_and_code_are_found():
    found = backlinks.names_used(
        notebook(
            ("py", "import torch\nfrom metabook.training import meta_train\nimport metabook.tasks as tasks"),
            ("py", "%matplotlib inline\nif True:\n    !ls\nfrom metabook import MAML"),
            ("py", "what goes here?\nfrom metabook.hidden import x"),
            (
                "md",
                "{py:class}`~metabook.learner.Learner`, {py:func}`text <metabook.evaluation.evaluate>`, `metabook.no`",
            ),
        )
    )
    assert found == {
        "metabook.training.meta_train", "metabook.tasks", "metabook.MAML", "metabook.learner.Learner",
        "metabook.evaluation.evaluate",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "home"),
    [
        ("metabook.optimization.maml.MAML", "metabook.optimization.maml"),
        ("metabook.optimization.maml", "metabook.optimization.maml"),
        ("metabook.MAML", "metabook.optimization.maml"),  # re-exported twice
        ("metabook.optimization.mamlet", "metabook.optimization"),
        ("metabookish.x", None),
    ],
)
def test_a_name_is_led_home(name, home):
    modules = ["metabook", "metabook.optimization", "metabook.optimization.maml"]
    origins = {
        "metabook.MAML": "metabook.optimization.MAML",
        "metabook.optimization.MAML": "metabook.optimization.maml.MAML",
    }
    assert backlinks.home_of(name, modules, origins) == home


def test_a_circle_of_reexports_ends():
    assert (
        backlinks.home_of("metabook.a", ["metabook"], {"metabook.a": "metabook.b", "metabook.b": "metabook.a"})
        == "metabook"
    )


def test_mathjax_is_complete():
    """Every part that is copied exists, it is the version the design names, and all its fonts are there."""
    folder = offline.mathjax_folder()
    assert all((folder / part).exists() for part in offline.MATHJAX_PARTS)
    script = (folder / "tex-mml-chtml.js").read_text(encoding="utf-8")
    assert re.search(r'"3\.2\.2"', script)
    fonts = folder / "output/chtml/fonts/woff-v2"
    wanted = set(re.findall(r"MathJax_[A-Za-z0-9]+-[A-Za-z]+(?=\.woff)", script)) or {"MathJax_Main-Regular"}
    assert wanted <= {path.stem for path in fonts.glob("*.woff")} and len(list(fonts.glob("*.woff"))) >= 20


def test_thebe_is_disconnected():
    class Listener:
        def __init__(self, module):
            self.handler = type("Handler", (), {"__module__": module})

    listeners = [Listener("sphinx_thebe"), Listener("sphinx_copybutton")]
    registry = type("Registry", (), {"css_files": [("sphinx-thebe.css", {}), ("custom.css", {})]})
    app = type(
        "App", (), {"events": type("Events", (), {"listeners": {"builder-inited": listeners}}), "registry": registry}
    )
    offline.drop_thebe(app, None)
    assert [one.handler.__module__ for one in listeners] == ["sphinx_copybutton"]
    assert registry.css_files == [("custom.css", {})]


@pytest.mark.parametrize(("alt", "complains"), [("A curve.", False), ("", True), ("  ", True), (None, True)])
def test_a_picture_without_words_is_refused(monkeypatch, alt, complains):
    heard = []
    monkeypatch.setattr(accessible.LOGGER, "warning", lambda *args, **kwargs: heard.append(kwargs))
    document = new_document("page")
    document += nodes.image(uri="x.png", **({} if alt is None else {"alt": alt}))
    app = type("App", (), {"env": type("Env", (), {"docname": "page"})})
    accessible.require_alt(app, document)
    assert bool(heard) == complains


def test_markup_is_mended():
    body = '<dt>f(<dl>\n<dd><em class="sig-param">a</em>,</dd>\n<dd><em class="sig-param">b</em></dd>\n</dl>\n)</dt>'
    assert accessible.mend(body) == (
        '<dt>f(<span class="sig-line"><em class="sig-param">a</em>,</span>\n'
        '<span class="sig-line"><em class="sig-param">b</em></span>\n\n)</dt>'
    )
    fields = "<dl><dt>Raises</dt><dd>ValueError</dd></dl>"
    assert accessible.mend(fields) == fields
    entry = '<div role="list" class="citation-list">\n<div class="citation" id="a" role="doc-biblioentry">'
    assert accessible.mend(entry) == '<div class="citation-list">\n<div class="citation" id="a">'


def test_colab_address():
    address = launch.colab_address("https://github.com/someone/something", "main", "book/optimization/maml.ipynb")
    assert (
        address == "https://colab.research.google.com/github/someone/something/blob/main/book/optimization/maml.ipynb"
    )


@pytest.mark.parametrize(("files", "kept"), [(["a/index.rst", "b.rst"], False), (["a/index.rst", "mine.py"], True)])
def test_only_generated_leftovers_are_removed(tmp_path, files, kept):
    for name in files:
        path = tmp_path / "api" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    app = type("App", (), {"srcdir": tmp_path})
    backlinks.forget_leftovers(app, type("Config", (), {"autoapi_root": "api"}))
    assert (tmp_path / "api").exists() == kept
