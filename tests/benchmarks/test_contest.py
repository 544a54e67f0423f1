"""The harness of the benchmarks with contestants that only pretend: no test here measures speed."""

import json
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import report
from benchmarks.contest import Result, Row, rotated, run_row
from benchmarks.contestants import Contestant
from benchmarks.workloads import WORKLOADS, Workload

WORK = Workload("two waves", "maml", "mlp", tasks=2, shots=3, queries=3)
LOOP = Contestant("loop", "loop")
OURS = Contestant("metabook", "metabook")
OTHER = Contestant("other", "other")


class Pretend:
    """Workers whose answers and times are given, and a diary of the turns."""

    def __init__(self, gradients=None, times=None, answers=None):
        self.gradients, self.times, self.answers = gradients or {}, times or {}, answers or {}
        self.turns, self.closed = [], []

    def hire(self, contestant, work, weights, device, threads):
        def answer(command, *arguments):
            if (contestant.name, command) in self.answers:
                return self.answers[contestant.name, command]
            if command == "check":
                return "ok", self.gradients.get(contestant.name, [np.array([1.0, -4.0])])
            if command == "operations":
                return "ok", 100.0
            if command == "turn":
                number = sum(name == contestant.name for name in self.turns)
                self.turns.append(contestant.name)
                seconds = self.times.get(contestant.name, [1.0] * 9)[number]
                return "ok", {"step": seconds, "draw": seconds / 10, "steps": 1, "memory": 1000 * (number + 1)}
            return "ok", None

        answer.close = lambda: self.closed.append(contestant.name)
        return answer


def run(pretend, contestants=(LOOP, OTHER, OURS), rounds=3):
    return run_row(WORK, contestants, rounds=rounds, hire=pretend.hire)


def test_whoever_disagrees_fails_and_is_not_timed():
    pretend = Pretend(gradients={"other": [np.array([1.0, -4.0 + 1e-7])]})
    row = run(pretend)
    assert "other" not in pretend.turns
    assert len(row.failures) == 1 and "two waves: other: disagrees with loop" in row.failures[0]
    assert "1e-07" in row.failures[0]
    assert row.results["other"].deviation == pytest.approx(1e-7 / 4)
    assert "other" not in row.ratios["metabook"]


@pytest.mark.parametrize(
    "gradient", [[np.array([1.0, np.nan])], [np.array([[1.0, -4.0]])], [np.array([1.0, -4.0]), np.zeros(1)]]
)
def test_a_result_that_is_no_number_or_of_another_shape_disagrees(gradient):
    assert run(Pretend(gradients={"other": gradient})).results["other"].failed


def test_agreement_is_relative_to_the_largest_value():
    row = run(Pretend(gradients={"other": [np.array([1.0 + 3.9e-8, -4.0])]}))
    assert not row.failures and row.results["other"].deviation < 1e-8


def test_ratios_are_medians_over_rounds_of_the_ratio_within_a_round():
    times = {"metabook": [1.0, 2.0, 10.0], "other": [3.0, 8.0, 10.0], "loop": [10.0, 1.0, 1.0]}
    row = run(Pretend(times=times))
    assert row.ratios["metabook"] == {"other": 3.0, "loop": 0.5}
    assert row.results["metabook"].tasks_per_second == 2 / 2.0
    assert row.results["metabook"].sampling == pytest.approx(0.1)
    assert row.results["metabook"].memory == 3000
    assert row.operations == 100.0


def test_every_round_has_a_turn_of_each_and_each_begins_one():
    pretend = Pretend()
    run(pretend)
    rounds = [pretend.turns[i : i + 3] for i in (0, 3, 6)]
    assert rounds[0] == ["loop", "other", "metabook"]
    assert all(sorted(turn) == sorted(rounds[0]) for turn in rounds)
    assert {turn[0] for turn in rounds} == set(rounds[0])
    assert rotated([], 3) == []


def test_a_peer_that_is_not_installed_is_listed_with_its_pip_line():
    missing = Contestant("missing", "missing", "a_package_that_nobody_wrote", "pip install it")
    row = run(Pretend(), contestants=(LOOP, missing, OURS))
    assert not row.failures
    assert row.results["missing"].absent == "not installed: pip install it"
    assert "missing: not installed: pip install it" in report.table([row], (LOOP, missing, OURS), peak=1e9)


def test_one_without_the_method_is_left_out_and_no_failure():
    pretend = Pretend(answers={("other", "check"): ("skip", "has none")})
    row = run(pretend)
    assert not row.failures and row.results["other"].absent == "has none"
    assert "other" not in pretend.turns


@pytest.mark.parametrize("command", ["check", "warm_up", "turn"])
def test_an_error_in_one_process_fails_the_run_and_the_others_finish(command):
    pretend = Pretend(answers={("other", command): ("error", "Traceback: boom")})
    row = run(pretend)
    assert row.failures == ["two waves: other: Traceback: boom"]
    assert len(row.results["metabook"].seconds) == 3
    assert sorted(pretend.closed) == ["loop", "metabook", "other"]


def test_one_that_fails_half_way_does_not_take_the_others_turn():
    pretend = Pretend()
    hire = pretend.hire

    def fails_second_time(contestant, *rest):
        worker = hire(contestant, *rest)
        if contestant is not OTHER:
            return worker

        def answer(command, *arguments):
            if command == "turn" and "other" in pretend.turns:
                return "error", "boom"
            return worker(command, *arguments)

        answer.close = worker.close
        return answer

    pretend.hire = fails_second_time
    row = run(pretend)
    assert len(row.results["loop"].seconds) == len(row.results["metabook"].seconds) == 3
    assert row.results["other"].failed and not row.results["other"].seconds


def test_the_table_gives_ratios_and_the_share_of_the_matrix_peak():
    row = run(Pretend(times={"metabook": [0.5] * 3, "loop": [2.0] * 3, "other": [1.0] * 3}))
    text = report.table([row], (LOOP, OTHER, OURS), peak=8000.0)
    lines = {
        line.split("  ")[1]: line.split()[-3:] for line in text.splitlines() if line.startswith("  ") and "  " in line
    }
    assert lines["tasks per second"] == ["1", "2", "4"]
    assert lines["of the matrix peak, %"] == ["1.25", "2.5", "5"]
    assert "4.00x" in text and "2.00x" in text


def test_results_are_written_whole_or_not_at_all(tmp_path):
    row = run(Pretend())
    path = tmp_path / "results" / "machine.json"
    report.write(path, report.record([row], date="today"))
    kept = json.loads(path.read_text())
    assert kept["date"] == "today"
    assert kept["rows"][0]["workload"]["name"] == "two waves"
    assert kept["rows"][0]["results"]["metabook"]["seconds"] == [1.0, 1.0, 1.0]
    assert kept["rows"][0]["ratios"]["metabook"]["loop"] == 1.0
    with pytest.raises(TypeError):
        report.write(path, {"cannot be written": object()})
    assert json.loads(path.read_text()) == kept
    assert [p.name for p in path.parent.iterdir()] == ["machine.json"]


def test_rows_have_names_of_their_own():
    assert len({work.name for work in WORKLOADS}) == len(WORKLOADS)


def test_a_failed_row_ends_the_command_with_an_error(monkeypatch, tmp_path, capsys):
    from benchmarks import __main__ as command

    def failing(work, contestants, **options):
        assert contestants[0].name == "loop"
        failed = Result(absent="disagrees with loop in float64: largest difference 0.5", failed=True)
        return Row(work, {"metabook": failed})

    monkeypatch.setattr(command, "run_row", failing)
    monkeypatch.setattr(command.machine, "matrix_peak", lambda *_, **__: 1e9)
    options = ["--rows", "CNP", "--contestants", "metabook", "--json", str(tmp_path / "out.json")]
    assert command.main(options) == 1
    assert "FAILED: CNP, 64 tasks: metabook: disagrees" in capsys.readouterr().err
    assert json.loads((tmp_path / "out.json").read_text())["machine"]["versions"]["torch"]
    monkeypatch.setattr(command, "run_row", lambda work, contestants, **options: Row(work, {}))
    assert command.main(options) == 0
    assert command.main(["--rows", "no such row"]) == 2


def test_a_worker_process_answers_and_ends():
    work = replace(WORK, name="a real process")
    row = run_row(work, [LOOP, OURS], rounds=1, seconds=0.0)
    assert not row.failures
    for name in ("loop", "metabook"):
        assert row.results[name].tasks_per_second > 0 and row.results[name].memory >= 0
    assert row.operations > 0 and list(row.ratios["metabook"]) == ["loop"]
