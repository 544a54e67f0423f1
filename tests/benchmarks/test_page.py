"""What the README and the book say about speed is what the recorded files say."""

import copy

import pytest

from benchmarks import page


@pytest.mark.parametrize("path", [page.PAGE, page.README], ids=lambda path: path.name)
def test_tables_are_those_of_the_recorded_results(path):
    text = path.read_text(encoding="utf-8")
    assert "<!-- speed: " in text
    assert page.filled(text, page.load("training"), page.load("memory")) == text


def test_a_changed_result_changes_the_table():
    training = page.load("training")
    changed = copy.deepcopy(training)
    for row in changed["rows"]:
        row["results"]["metabook"]["seconds"] = [s / 2 for s in row["results"]["metabook"]["seconds"]]
    assert page.training_table(changed) != page.training_table(training)


def test_every_row_agreed_in_float64_before_it_was_timed():
    for row in page.load("training")["rows"]:
        for name, result in row["results"].items():
            if result["seconds"]:
                assert not result["failed"], (row["workload"]["name"], name)
                assert result["deviation"] is None or result["deviation"] <= 1e-8


def test_figures_are_drawn_from_the_results(tmp_path):
    page.draw_ratios(page.load("training"), tmp_path / "ratios.svg")
    page.draw_memory(page.load("memory"), tmp_path / "memory.svg")
    for name in ("ratios.svg", "memory.svg"):
        assert (tmp_path / name).read_text().count("<path") > 50
        assert (page.FIGURES / name).exists()
