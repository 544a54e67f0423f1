"""The setup cell: runs where the library is, and otherwise installs it and only it, from the address of the book."""

import subprocess
import sys
from importlib import metadata

import pytest
from setup_cell import setup_source

from metabook import __version__


@pytest.fixture
def commands(monkeypatch):
    """What the cell would run."""
    found = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: found.append(command))
    return found


def test_it_does_nothing_where_the_library_is_installed(commands):
    exec(setup_source(), {})
    assert commands == []


@pytest.fixture
def missing(monkeypatch):
    """The distribution cannot be found."""

    def version(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.delenv("METABOOK_SOURCE", raising=False)


def test_it_installs_our_distribution_alone_at_the_tag(commands, missing):
    exec(setup_source(), {})
    ((python, *words),) = commands
    assert python == sys.executable
    assert words[:3] == ["-m", "pip", "install"] and "--no-deps" in words
    assert words[-1].startswith("metabook-learning @ https://github.com/")
    assert words[-1].endswith(f"/archive/refs/tags/v{__version__}.zip")


def test_another_source_can_be_named(commands, missing, monkeypatch):
    monkeypatch.setenv("METABOOK_SOURCE", "file:///wheels/ours.whl")
    exec(setup_source(), {})
    assert commands[0][-1] == "metabook-learning @ file:///wheels/ours.whl"


def test_it_asks_for_our_distribution_not_for_the_other_project(monkeypatch):
    asked = []
    monkeypatch.setattr(metadata, "version", asked.append)
    exec(setup_source(), {})
    assert asked == ["metabook-learning"]
