"""The built site, served on this machine, and one browser for all tests of the folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(Path(__file__).parent))  # browser.py, beside this file
sys.path.insert(0, str(ROOT / "book" / "_ext"))  # the extensions, as Jupyter Book finds them

from browser import find_chromium, pages_of, served, visit_pages  # noqa: E402


@pytest.fixture(scope="session")
def site() -> Path:
    """The folder of the built site: `METABOOK_SITE`, or `_build/html`, which is built first where it is absent."""
    folder = Path(os.environ.get("METABOOK_SITE", ROOT / "_build" / "html"))
    if not (folder / "index.html").exists():
        if "METABOOK_SITE" in os.environ:
            raise ValueError(f"METABOOK_SITE={folder} holds no index.html; build the book there, or unset the variable")
        build = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(ROOT), "-W", "--keep-going"]
        done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, f"the book does not build:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return folder


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    """Where the site is served."""
    with served(site) as url:
        yield url


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """One headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def visits(browser, address: str, site: Path):
    """A function from a look to the visits of all pages in it; each look is walked through once."""
    known: dict[str, list] = {}

    def of(variant: str) -> list:
        if variant not in known:
            known[variant] = visit_pages(browser, variant, address, pages_of(site))
        return known[variant]

    return of
