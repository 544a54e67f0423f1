"""Results of the runs on MNIST: files that are read as they were written, and the command that writes them."""

import dataclasses
import importlib.util
import math
import re
import sys

import pytest
from setup_cell import ROOT

from metabook.data import available
from metabook.full_scale import DigitRun, load_digit_runs
from metabook.full_scale.runs import FOLDER

EXAMPLE = DigitRun("dense", {"epochs": 2}, 0, 1.5, {"device": "CPU"}, "python x.py", [0.5, 0.75], "1101")


def test_a_file_is_read_as_it_was_written(tmp_path):
    EXAMPLE.write(tmp_path / "mnist-a.json")
    assert DigitRun.read(tmp_path / "mnist-a.json") == EXAMPLE
    assert load_digit_runs(tmp_path) == [EXAMPLE]


def test_the_interval_is_that_of_a_share():
    assert EXAMPLE.accuracy == 0.75
    assert EXAMPLE.ci95 == pytest.approx(1.96 * math.sqrt(0.75 * 0.25 / 4))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"network": "dense"}'])
def test_a_file_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match="not the result of a run of experiments/mnist.py"):
        DigitRun.read(tmp_path / "x.json")


@pytest.mark.parametrize("right", ["", "10x1"])
def test_answers_that_are_not_right_or_wrong_are_refused(tmp_path, right):
    dataclasses.replace(EXAMPLE, right=right).write(tmp_path / "x.json")
    with pytest.raises(ValueError, match="not all 0 or 1"):
        DigitRun.read(tmp_path / "x.json")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("mnist-*.json")), ids=lambda path: path.stem)
def test_the_runs_of_the_library_say_what_they_are(path):
    run = DigitRun.read(path)
    name = re.fullmatch(r"mnist-([a-z]+)-seed(\d+)", path.stem)
    assert (run.network, run.seed) == (name[1], int(name[2]))
    assert len(run.right) == 10_000 and len(run.validation) == run.training["epochs"]
    assert run.training["images"] == 55_000 and run.seconds > 5
    assert run.command.startswith("python experiments/mnist.py ") and "/" not in run.command.split(" ", 2)[2]
    assert run.machine.keys() >= {"device", "torch", "metabook", "python"}


def test_both_networks_were_run_from_three_seeds():
    seeds = {(run.network, run.seed) for run in load_digit_runs()}
    assert seeds == {(network, seed) for network in ("dense", "convolutional") for seed in range(3)}


@pytest.mark.skipif(not available("mnist"), reason="MNIST is not here (METABOOK_DATA)")
def test_the_command_trains_and_tests(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("mnist_experiment", ROOT / "experiments" / "mnist.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    arguments = ["dense", "--epochs", "1", "--images", "2000", "--out", str(tmp_path)]
    assert module.main(arguments) == 0
    [run] = load_digit_runs(tmp_path)
    assert run.network == "dense" and run.training["epochs"] == 1 and run.accuracy > 0.5
