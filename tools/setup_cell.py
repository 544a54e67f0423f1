"""The first code cell of every chapter: it makes the chapter run where the library is missing, as on Colab.

It never touches torch, numpy or matplotlib (`--no-deps`), and it asks for our distribution by its own name,
because `metabook` on the Python package index is another project.
"""

from __future__ import annotations

from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parent.parent
TAGS = ["hide-cell", "nbval-ignore-output"]

TEMPLATE = """\
# Run this cell first: it installs the book's library where it is missing (as on Colab).
import importlib.metadata
import os
import subprocess
import sys

try:
    importlib.metadata.version("metabook-learning")
except importlib.metadata.PackageNotFoundError:
    address = "{address}"
    source = f"{{address}}/archive/refs/tags/v{version}.zip"
    source = os.environ.get("METABOOK_SOURCE", source)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*command, f"metabook-learning @ {{source}}"], check=True)
    importlib.invalidate_caches()
""".rstrip()


def setup_source(root: Path = ROOT) -> str:
    """The canonical text of the cell, with the address and version that stand in pyproject."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    return TEMPLATE.format(address=project["urls"]["Repository"], version=project["version"])
