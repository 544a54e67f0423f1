"""The one form in which notebooks are stored."""

import base64
import copy
import io

import matplotlib.figure
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from normalise import bare_png, complaints, merged_streams, normalise


def png(**metadata):
    file = io.BytesIO()
    figure = matplotlib.figure.Figure(figsize=(1, 1))
    figure.subplots().plot([1, 2])
    figure.savefig(file, format="png", metadata=metadata)
    return file.getvalue()


def test_a_picture_loses_who_made_it_and_stays_a_picture():
    first, second = (base64.b64encode(png(Software=name, Title="t")).decode() for name in ("one", "other"))
    assert first != second
    assert bare_png(first) == bare_png(second)
    stripped = base64.b64decode(bare_png(first))
    assert b"tEXt" in base64.b64decode(first) and b"tEXt" not in stripped
    pixels = [matplotlib.image.imread(io.BytesIO(data)) for data in (base64.b64decode(first), stripped)]
    assert (pixels[0] == pixels[1]).all()
    assert bare_png(bare_png(first)) == bare_png(first + "\n")


def test_what_is_no_picture_is_refused():
    with pytest.raises(ValueError, match="image/png"):
        bare_png(base64.b64encode(b"GIF89a..").decode())


def stream(text, name="stdout"):
    return new_output("stream", name=name, text=text)


def test_streams_are_merged_where_each_began():
    value = new_output("display_data", data={"text/plain": "1"})
    merged = merged_streams([stream("a"), value, stream("e", "stderr"), stream("b"), stream("f", "stderr")])
    assert [out.get("text", "-") for out in merged] == ["ab", "-", "ef"]


def messy_notebook():
    result = new_output("execute_result", data={"text/plain": "2"}, execution_count=9)
    cells = [
        new_markdown_cell("text", id="a"),
        new_code_cell("1 + 1", id="b", execution_count=9, outputs=[stream("x"), result, stream("y")]),
        new_code_cell("2", id="c", execution_count=12, metadata={"execution": {"iopub.status.idle": "now"}}),
    ]
    cells[1].metadata = {"collapsed": True, "tags": ["hide-input"], "mystnb": {"image": {"alt": "words"}}}
    metadata = {"kernelspec": {"name": "mine"}, "language_info": {"name": "python", "version": "3.11.7"}}
    metadata |= {"widgets": {}, "metabook": {"budget": 120}, "vscode": {"hash": "0"}}
    notebook = new_notebook(cells=cells)
    notebook.metadata = nbformat.from_dict(metadata)
    return notebook


def test_the_normal_form():
    notebook = messy_notebook()
    normalise(notebook)
    nbformat.validate(notebook)
    first, second = notebook.cells[1:]
    assert (first.execution_count, first.outputs[1].execution_count, second.execution_count) == (1, 1, 2)
    assert first.metadata == {"tags": ["hide-input"], "mystnb": {"image": {"alt": "words"}}}
    assert second.metadata == {}
    assert set(notebook.metadata) == {"kernelspec", "language_info", "metabook"}
    assert "version" not in notebook.metadata.language_info
    assert [cell.id for cell in notebook.cells] == ["a", "b", "c"]
    again = copy.deepcopy(notebook)
    normalise(again)
    assert again == notebook


@pytest.mark.parametrize(
    "output, words",
    [
        (stream("UserWarning", "stderr"), "wrote to stderr"),
        (new_output("error", ename="KeyError", evalue="'x'", traceback=[]), "raised KeyError"),
        (stream("<function f at 0x7f2ab3c4d5e0>"), "an object's address: 0x7f2ab3c4d5e0"),
        (new_output("display_data", data={"text/plain": "<A object at 0x7f2ab3c4d5e0>"}), "address"),
        (stream("saved to /some/where/file.txt"), "a path of this machine: /some/where/file.txt"),
        (stream("'/some/file'"), "path"),
        (stream(r"C:\Users\someone"), "path"),
        (new_output("display_data", data={"text/html": "<a href='/some/where'>"}), "path"),
        (new_output("display_data", data={"application/vnd.jupyter.widget-view+json": {}}), "widget"),
    ],
)
def test_what_must_not_be_stored(output, words):
    (found,) = complaints(new_notebook(cells=[new_code_cell("x", outputs=[output])]))
    assert found.startswith("cell 0: ") and words in found


def test_the_state_of_widgets_must_not_be_stored():
    assert complaints(new_notebook(metadata={"widgets": {"a": 1}})) == ["the notebook carries the state of widgets"]


@pytest.mark.parametrize(
    "text",
    [
        "accuracy 0.97 +/- 0.01, and/or 3/4, 12 tasks/s",
        "https://arxiv.org/abs/1703.03400",
        "book/optimization/maml, ../theory/maml",
        "</g></svg> <br/>",
        "colour 0xff",
        "abc+/9/j4AAQSkZJRgABAQ/AAAA/x=",
        "~/.cache/metabook",
    ],
)
def test_what_may_be_stored(text):
    picture = {"image/png": "iVBO/ab/cd/0x7f2ab3c4d5e0", "text/html": text, "text/plain": text}
    outputs = [stream(text), new_output("display_data", data=picture)]
    assert complaints(new_notebook(cells=[new_code_cell("x", outputs=outputs)])) == []
