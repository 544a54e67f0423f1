"""What a run leaves to read: its best validation, a table, live curves."""

import csv
import math
import sys

import pytest
import torch

from metabook import MAML, History, Scores, meta_train
from metabook.networks import mlp
from metabook.tasks import Sinusoids


def scores(*values, metric="accuracy"):
    return Scores(torch.tensor(values), metric)


def history():
    numbers = [1 / 3, 1e-300, 12345.678]
    return History(numbers, numbers[::-1], [10.0, 20.0, 30.0], [(2, scores(0.25, 0.5)), (3, scores(0.5))])


def test_best_is_the_highest_accuracy_the_lowest_error_and_the_first_of_equals():
    assert History().best is None
    high = History(validation=[(1, scores(0.2)), (2, scores(0.6)), (3, scores(0.6))])
    assert high.best[0] == 2
    low = History(validation=[(1, scores(2.0, metric="mse")), (2, scores(0.5, metric="mse"))])
    assert low.best == low.validation[1]
    broken = History(validation=[(1, scores(math.nan)), (2, scores(0.1)), (3, scores(math.nan))])
    assert broken.best[0] == 2


def test_table_holds_every_number_exactly(tmp_path):
    path, run = tmp_path / "new" / "history.csv", history()
    run.to_csv(path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["step", "loss", "score", "tasks_per_second", "validation_mean", "validation_ci95"]
    assert [int(row["step"]) for row in rows] == run.steps
    for name in ("loss", "score", "tasks_per_second"):
        assert [float(row[name]) for row in rows] == getattr(run, name)
    assert [row["validation_mean"] for row in rows] == ["", "0.375", "0.5"]
    assert float(rows[1]["validation_ci95"]) == run.validation[0][1].ci95
    assert math.isnan(float(rows[2]["validation_ci95"]))  # one task has no interval


def test_table_replaces_the_former_one_as_a_whole(tmp_path):
    path = tmp_path / "history.csv"
    history().to_csv(path)
    before = path.read_bytes()
    uneven = history()
    uneven.score.pop()
    with pytest.raises(ValueError):
        uneven.to_csv(path)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["history.csv"]


def train(folder, steps, **options):
    torch.manual_seed(0)
    learner = MAML(mlp([1, 8, 1]))
    optimizer = torch.optim.Adam(learner.parameters())
    return meta_train(
        learner, Sinusoids(), steps=steps, optimizer=optimizer, validation=Sinusoids(), validate_every=2,
        validation_tasks=3, tensorboard=folder, **options,
    )  # fmt: skip


def test_tensorboard_receives_every_step_and_each_once_after_resumption(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = dict(checkpoint=tmp_path / "run.ckpt", checkpoint_every=2)

    def stop(step, learner):
        if step == 5:
            raise RuntimeError("stop")  # after the checkpoint of step 4; step 5 was shown and will be shown again

    with pytest.raises(RuntimeError):
        train(tmp_path / "live", 8, on_step=stop, **options)
    run = train(tmp_path / "live", 8, **options)
    events = EventAccumulator(str(tmp_path / "live"))
    events.Reload()
    shown = {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}
    for name in ("loss", "score"):
        steps, values = zip(*shown[f"training/{name}"], strict=True)
        assert list(steps) == run.steps and list(values) == pytest.approx(getattr(run, name))
    assert [step for step, _ in shown["training/tasks_per_second"]] == run.steps
    assert [step for step, _ in shown["validation/mse"]] == [2, 4, 6, 8]


def test_without_tensorboard_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r'pip install "metabook-learning\[tensorboard\]"'):
        train(tmp_path, 1)
