"""Bring a notebook that was run into the one form in which it is stored, the same bytes after every run."""

from __future__ import annotations

import base64
import re

import nbformat
from nbformat import NotebookNode

KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {"file_extension": ".py", "mimetype": "text/x-python", "name": "python", "pygments_lexer": "ipython3"}
KEPT_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"pHYs", b"IDAT", b"IEND"}  # the picture; the rest says who made it
ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}")
ABSOLUTE_PATH = re.compile(r"(?<![\w./:<+=~])/(?:[\w.+-]+/)+[\w.+-]*|\b[A-Z]:\\[\w.\\-]+")


def normalise(notebook: NotebookNode) -> None:
    """Drop what differs from run to run or machine to machine; what a reader sees stays.

    Streams are merged, pictures lose their text chunks, cells are counted from 1, the metadata of the kernel
    and of the run is fixed.
    """
    own = {key: notebook.metadata[key] for key in ("metabook",) if key in notebook.metadata}
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNELSPEC, "language_info": LANGUAGE, **own})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    count = 0
    for cell in notebook.cells:
        for key in ("execution", "collapsed", "scrolled", "ExecuteTime", "trusted", "lines_to_next_cell"):
            cell.metadata.pop(key, None)
        if cell.cell_type != "code":
            continue
        count += 1
        cell.execution_count = count
        cell.outputs = merged_streams(cell.outputs)
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = bare_png(output.data["image/png"])


def merged_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """One stdout and one stderr per cell, each at the place of its first piece."""
    kept: list[NotebookNode] = []
    first: dict[str, NotebookNode] = {}
    for output in outputs:
        if output.output_type == "stream" and output.name in first:
            first[output.name].text += output.text
            continue
        if output.output_type == "stream":
            first[output.name] = output
        kept.append(output)
    return kept


def bare_png(encoded: str) -> str:
    """A base64 PNG without the chunks that name software, versions and times.

    Raises:
        ValueError: the bytes are no PNG.
    """
    data = base64.b64decode(encoded)
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError(f"a picture of type image/png begins with {data[:8]!r}")
    kept, position = [data[:8]], 8
    while position < len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        chunk = data[position : position + 12 + length]
        if chunk[4:8] in KEPT_CHUNKS:
            kept.append(chunk)
        position += 12 + length
    return base64.b64encode(b"".join(kept)).decode()


def complaints(notebook: NotebookNode) -> list[str]:
    """What must not be stored: stderr, errors, object addresses, paths of a machine, live widgets."""
    found = []
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            found += [f"cell {number}: {problem}" for problem in _complaints_of(output)]
    if "widgets" in notebook.metadata:
        found.append("the notebook carries the state of widgets")
    return found


def _complaints_of(output: NotebookNode) -> list[str]:
    if output.output_type == "error":
        return [f"raised {output.ename}: {output.evalue}"]
    if output.output_type == "stream" and output.name == "stderr":
        return [f"wrote to stderr: {output.text.strip()[:300]}"]
    found = []
    data = {"stream": output.get("text", ""), **output.get("data", {})}
    for kind, text in data.items():
        if "widget" in kind:
            found.append(f"shows a widget ({kind}), which needs a kernel")
        if isinstance(text, str) and not kind.startswith("image/") or kind == "image/svg+xml":
            if match := ADDRESS.search(text):
                found.append(f"prints an object's address: {match[0]}")
            if match := ABSOLUTE_PATH.search(text):
                found.append(f"prints a path of this machine: {match[0][:80]}")
    return found
