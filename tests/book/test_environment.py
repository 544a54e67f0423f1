"""environment.yml is pyproject.toml at the versions of constraints.txt."""

import re

import pytest
import tomllib
import yaml
from setup_cell import ROOT

PIN = re.compile(r"(?P<name>[\w.-]+)==(?P<version>[\w.!+-]+)")


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lines):
    """Names and exact versions; a line that holds anything else is an error."""
    matches = [PIN.fullmatch(line) for line in lines]
    assert all(matches), [line for line, match in zip(lines, matches, strict=True) if match is None]
    return {canonical(match["name"]): match["version"] for match in matches}


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
BY_PIP = next(entry["pip"] for entry in CONDA if isinstance(entry, dict))
CONSTRAINTS = pins(
    [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
)


def required():
    """Name and the rest of every requirement of the library and its extras."""
    everything = [*PROJECT["dependencies"], *sum(PROJECT["optional-dependencies"].values(), [])]
    words = [re.match(r"([\w.-]+)(?:\[[^]]*\])?\s*([^;]*)", requirement) for requirement in everything]
    return [(canonical(match[1]), match[2]) for match in words if canonical(match[1]) != canonical(PROJECT["name"])]


def test_the_environment_has_what_pyproject_asks_for_at_the_constraints():
    environment = pins([line for line in BY_PIP if not line.startswith("-")])
    assert set(environment) == {name for name, _ in required()}
    assert environment == {name: CONSTRAINTS[name] for name in environment}


def test_every_requirement_is_constrained_within_its_own_bounds():
    specifiers = pytest.importorskip("packaging.specifiers")
    for name, bounds in required():
        assert CONSTRAINTS[name] in specifiers.SpecifierSet(bounds), name


def test_the_library_is_installed_from_the_checkout_and_its_python_is_supported():
    specifiers = pytest.importorskip("packaging.specifiers")
    assert "--editable ." in BY_PIP
    (python,) = [entry.split("=")[1] for entry in CONDA if isinstance(entry, str) and entry.startswith("python=")]
    assert f"{python}.0" in specifiers.SpecifierSet(PROJECT["requires-python"])


def test_the_library_itself_has_lower_bounds_only():
    bounds = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["digits"]]
    assert all(re.fullmatch(r"[\w-]+>=[\d.]+", requirement) for requirement in bounds)
