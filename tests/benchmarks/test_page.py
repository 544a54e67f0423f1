"""What the README and the book say about speed is what the recorded files say."""

import copy
from dataclasses import replace

import pytest

from benchmarks import page
from metabook.full_scale import paired


@pytest.mark.parametrize("path", [page.PAGE, page.README], ids=lambda path: path.name)
def test_tables_are_those_of_the_recorded_results(path):
    text = path.read_text(encoding="utf-8")
    assert "<!-- speed: " in text
    assert page.filled(text, page.load()) == text


def test_a_changed_result_changes_the_table():
    training = page.load()["training"]
    changed = copy.deepcopy(training)
    for row in changed["rows"]:
        row["results"]["metabook"]["seconds"] = [s / 2 for s in row["results"]["metabook"]["seconds"]]
    assert page.training_table(changed) != page.training_table(training)


@pytest.mark.parametrize("record", ["training", "gpu"])
def test_every_row_agreed_in_float64_before_it_was_timed(record):
    for row in page.load()[record]["rows"]:
        for name, result in row["results"].items():
            if result["seconds"]:
                assert not result["failed"], (row["workload"]["name"], name)
                assert result["deviation"] is None or result["deviation"] <= 1e-8


def test_figures_are_drawn_from_the_results(tmp_path):
    page.draw_ratios(page.load()["training"], tmp_path / "ratios.svg")
    page.draw_memory(page.load()["memory"], tmp_path / "memory.svg")
    for name in ("ratios.svg", "memory.svg"):
        assert (tmp_path / name).read_text().count("<path") > 50
        assert (page.FIGURES / name).exists()


def test_a_step_on_a_gpu_waits_for_nothing():
    """What the page says of the record."""
    for row in page.load()["gpu-step"]["rows"]:
        assert not row["waits"] and row["copies to the GPU"] == row["copies to the host"] == 0
        assert row["mode"] == "eager" or row["drawing"]["share"] < 0.02


def test_a_pair_that_saw_other_episodes_has_no_difference():
    """Episodes are drawn on the device, so those of a CPU are others."""
    runs = [run for run in page.load()["precision"] if run.method == "Prototypical network"]
    table = page.precision_table(runs)
    elsewhere = [
        replace(run, machine=run.machine | {"device": "another"}) if run.machine["precision"] == "float32" else run
        for run in runs
    ]
    assert table.count(" ± ") > page.precision_table(elsewhere).count(" ± ") > 0


def test_precision_costs_less_than_half_a_point():
    """What the page says of the table."""
    runs = [run for run in page.load()["precision"] if run.machine["device"] != "CPU, x86_64"]
    for run in runs:
        for other in runs:
            if (run.method, run.seed) == (other.method, other.seed):
                for test in run.tests:
                    difference = paired(test.scores, other.test(test.ways, statistics=test.statistics))
                    assert abs(difference.mean) < 0.005
