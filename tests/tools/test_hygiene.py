"""Each rule of hygiene refuses what it should, and a recorded chapter passes."""

import chapters
import hygiene
import nbformat
import pytest


def damage(path, position, **changes):
    """Change a cell of the recorded chapter and list what is wrong with it then."""
    notebook = chapters.read(path)
    for name, value in changes.items():
        notebook.cells[position][name] = nbformat.from_dict(value)
    chapters.write_atomically(path, notebook)
    return hygiene.problems(path)


def test_a_recorded_chapter_is_clean(recorded):
    assert hygiene.problems(recorded) == []


LONG = "\n".join(["x = 1"] * 26)
DAMAGES = [
    (3, {"execution_count": None}, "never run"),
    (3, {"execution_count": 9}, "out of order: [1, 2, 9, 4, 5]"),
    (2, {"metadata": {}}, "cell 2: shows a picture without alt text"),
    (2, {"metadata": {"mystnb": {"image": {"alt": " "}}}}, "cell 2: shows a picture without alt text"),
    (1, {"source": "import metabook"}, "does not begin with the setup cell"),
    (1, {"metadata": {"tags": []}}, "does not begin with the setup cell"),
    (3, {"source": LONG}, "26 lines of code, more than 25"),
    (3, {"source": "x = " + "1" * 90}, "94 columns"),
    (3, {"source": "plt.plot(x);"}, "ends in a semicolon: plt.plot(x);"),
    (3, {"source": "x = " + "1" * 107, "metadata": {"tags": ["hide-input"]}}, "more than 110"),
    (3, {"source": "!pip install metabook"}, "installs something"),
    (3, {"source": "%pip install torch"}, "installs something"),
    (3, {"source": "open('/some/where/data.csv')"}, "path of one machine: /some/where/data.csv"),
    (0, {"source": "Run `pip install metabook`."}, "another project"),
    (0, {"source": "Run `pip install -U 'metabook==1.0'`."}, "another project"),
    (0, {"source": "![](figure.svg)"}, "without alt text"),
    (0, {"source": "```{prf:proof}\n:class: dropdown\nSo it is.\n```"}, "folds a {prf:proof}"),
    (6, {"source": "```{exercise-end}\n```"}, "solution-end without solution-start"),
    (3, {"outputs": [{"output_type": "stream", "name": "stderr", "text": "careful"}]}, "wrote to stderr"),
    (
        3,
        {
            "outputs": [
                {
                    "output_type": "execute_result",
                    "execution_count": 3,
                    "metadata": {},
                    "data": {"text/plain": "MAML(\n  (network)"},
                }
            ]
        },
        "the object of its last line",
    ),
    (3, {"metadata": {"execution": {"shell.execute_reply": "now"}}}, "not stored as recorded"),
]


@pytest.mark.parametrize("position, changes, words", DAMAGES)
def test_damage_is_refused(recorded, position, changes, words):
    assert any(words in problem for problem in damage(recorded, position, **changes))


@pytest.mark.parametrize(
    "position, changes",
    [
        (2, {"metadata": {"mystnb": {"figure": {"alt": "A rising line."}}}}),
        (0, {"source": "Run `pip install metabook-learning`. ![A line](figure.svg)"}),
        (3, {"source": "\n".join(["x = 1"] * 25)}),
        (3, {"source": "x = " + "1" * 84}),
        (3, {"source": "x = " + "1" * 106, "metadata": {"tags": ["hide-input"]}}),
        (3, {"source": "css = 'a: b;'\npipeline = 1"}),
    ],
)
def test_what_is_just_allowed(recorded, position, changes):
    assert damage(recorded, position, **changes) == []


def test_a_large_file_is_refused(recorded, monkeypatch):
    monkeypatch.setattr(hygiene, "LARGEST", 100)
    assert any("more than 100" in problem for problem in hygiene.problems(recorded))


def test_a_longer_budget_is_said_in_the_chapter(recorded):
    notebook = chapters.read(recorded)
    notebook.metadata["metabook"] = {"budget": 120}
    chapters.write_atomically(recorded, notebook)
    assert hygiene.problems(recorded) == ["takes up to 120 s, and does not say so"]
    assert damage(recorded, 0, source="# Small\n\nThe chapter runs for two minutes.") == []
    notebook.metadata["metabook"] = {"budget": 600}
    chapters.write_atomically(recorded, notebook)
    assert any("a budget of 600 s" in problem for problem in hygiene.problems(recorded))
