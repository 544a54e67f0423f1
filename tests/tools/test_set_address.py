"""Moving the book: everything derived follows, nothing of the old address is left, names that only look alike stay."""

import shutil
import subprocess
import sys

import chapters
import pytest
import set_address
from setup_cell import ROOT, setup_source

OLD = set_address.current()
NEW = set_address.parse("https://github.com/Some-University" + "/meta-course")  # in two, so that no move finds it here


@pytest.fixture
def copy(tmp_path, recorded_text):
    """A copy of the project's texts, and one chapter."""
    root = tmp_path / "copy"
    for path in set_address.text_files(ROOT):
        place = root / path.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    (root / "book" / "small.ipynb").write_text(recorded_text, encoding="utf-8")
    return root


@pytest.mark.parametrize(
    "url, slug, site",
    [
        ("https://github.com/a/b", "a/b", "https://a.github.io/b"),
        ("https://github.com/A/b.git", "A/b", "https://a.github.io/b"),
        ("https://github.com/a/b/", "a/b", "https://a.github.io/b"),
        ("https://github.com/a/a.github.io", "a/a.github.io", "https://a.github.io"),
    ],
)
def test_an_address_is_read(url, slug, site):
    address = set_address.parse(url)
    assert address == (slug, site)
    assert address.repository == f"https://github.com/{slug}"
    assert set_address.parse(url, "https://book.org/x/").site == "https://book.org/x"


@pytest.mark.parametrize("url", ["github.com/a/b", "https://example.org/a/b", "https://github.com/a", "a/b", ""])
def test_what_is_no_repository_is_refused(url):
    with pytest.raises(ValueError, match="expected https://github.com/OWNER/NAME"):
        set_address.parse(url)


def test_what_is_no_site_is_refused():
    with pytest.raises(ValueError, match="no address of a site"):
        set_address.parse("https://github.com/a/b", "http://a b")


def test_only_the_address_itself_is_changed():
    text = (
        f"{OLD.repository}/blob x {OLD.repository}.git {OLD.site}/page {OLD.slug}-other pip install metabook-learning"
    )
    changed = set_address.change(text, OLD, NEW)
    assert changed == (
        f"{NEW.repository}/blob x {NEW.repository}.git {NEW.site}/page {OLD.slug}-other pip install metabook-learning"
    )
    owner = OLD.slug.split("/")[0]
    assert set_address.change(f"other-{OLD.slug} {owner}/other", OLD, NEW) == f"other-{OLD.slug} {owner}/other"


def test_everything_moves_and_back(copy):
    before = {path: path.read_bytes() for path in set_address.text_files(copy)}
    would = set_address.set_address(NEW, copy, dry_run=True)
    assert {path: path.read_bytes() for path in set_address.text_files(copy)} == before
    changed = set_address.set_address(NEW, copy)
    assert changed == would
    names = {path.relative_to(copy).as_posix() for path in changed}
    assert {"pyproject.toml", "_config.yml", "book/small.ipynb"} <= names
    assert set_address.current(copy) == NEW
    assert OLD.slug not in setup_source(copy) and NEW.repository in setup_source(copy)
    first = next(c for c in chapters.read(copy / "book" / "small.ipynb").cells if c.cell_type == "code")
    assert first.source == setup_source(copy)
    assert set_address.set_address(NEW, copy) == [], "a second time changes nothing"
    set_address.set_address(OLD, copy)
    assert {path: path.read_bytes() for path in set_address.text_files(copy)} == before


def test_a_new_address_may_contain_the_old_one(copy):
    new = set_address.parse(OLD.repository, f"{OLD.site}/en")
    set_address.set_address(new, copy)
    assert set_address.current(copy) == new
    assert set_address.set_address(new, copy) == []


def test_what_is_left_is_an_error(copy, monkeypatch):
    monkeypatch.setattr(set_address, "change", lambda text, old, new: text)
    with pytest.raises(RuntimeError, match="pyproject.toml"):
        set_address.set_address(NEW, copy)


def test_the_command_only_says_what_it_would_do():
    script = ROOT / "tools" / "set_address.py"
    command = [sys.executable, str(script), NEW.repository, "--dry-run"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "pyproject.toml" in printed and f"would change: {NEW.repository}, {NEW.site}" in printed
    assert set_address.current() == OLD
