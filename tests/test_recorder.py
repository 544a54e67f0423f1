"""Losses are read without making a step wait, and nothing is lost or late for it."""

import copy
import itertools

import pytest
import torch
from runs import press
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from metabook import MAML, meta_train, recorder
from metabook.checkpoint import load
from metabook.interrupts import Interrupted
from metabook.networks import mlp
from metabook.tasks import Sinusoids


def maml():
    torch.manual_seed(0)
    return MAML(mlp([1, 16, 1]), inner_lr=0.01)


def adam(learner):
    return torch.optim.Adam(learner.parameters(), lr=1e-2)


@pytest.fixture
def ahead(monkeypatch):
    """Treat the CPU as a device that works ahead of the host: losses are read every 10 steps."""
    monkeypatch.setattr(recorder, "_steps_between_readings", lambda device, seconds: 10)


class Waiting(TorchDispatchMode):
    """Notes what makes the host wait for a device: single numbers, and copies to the host."""

    def __init__(self):
        super().__init__()
        self.met = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            self.met.append("number")
        if function is torch.ops.aten._to_copy.default and (kwargs or {}).get("device") == torch.device("cpu"):
            self.met.append("copy")
        return function(*args, **(kwargs or {}))


class Reading(TorchFunctionMode):
    """Notes the methods that read values; on CPU tensors some of them call no operator."""

    def __init__(self):
        super().__init__()
        self.met = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name in ("tolist", "item", "cpu", "numpy", "__bool__", "__float__", "__int__"):
            self.met.append(name)
        return function(*args, **(kwargs or {}))


def reads(steps=12):
    """What each step of a run reads: the values that a host would have to wait for."""
    learner, found = maml(), []
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.01, momentum=0.9)  # Adam's count of steps is on the CPU
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    with Waiting() as waiting, Reading() as reading:

        def on_step(step, _):
            found.append(waiting.met + reading.met)
            waiting.met, reading.met = [], []

        options = dict(scheduler=scheduler, clip_norm=1.0, on_step=on_step, chunk=2)
        meta_train(learner, Sinusoids(), steps=steps, optimizer=optimizer, **options)
    return found


def test_a_step_does_not_wait_for_a_device_that_works_ahead(ahead):
    found = reads()
    assert found[0] == found[10] == ["tolist"]  # the first step, and then ten together
    assert all(step == [] for number, step in enumerate(found) if number not in (0, 10))


def test_on_the_cpu_every_loss_is_read_at_once():
    assert reads() == [["tolist"]] * 12


def test_reading_late_changes_neither_history_nor_weights(monkeypatch):
    runs = []
    for steps_between in (1, 10):
        monkeypatch.setattr(recorder, "_steps_between_readings", lambda *_, n=steps_between: n)
        learner, tasks = maml(), Sinusoids()
        options = dict(validation=tasks, validate_every=4, validation_tasks=3)
        history = meta_train(learner, tasks, steps=26, optimizer=adam(learner), **options)
        means = [(step, scores.mean) for step, scores in history.validation]
        runs.append((history.loss, history.score, means, nn.utils.parameters_to_vector(learner.parameters()).tolist()))
        assert len(history.tasks_per_second) == 26 and min(history.tasks_per_second) > 0
    assert runs[0] == runs[1]


def test_speed_is_that_of_the_step_alone(monkeypatch):
    """Every look at this clock takes a second: one from the start of a step to its end."""
    learner, ticks = maml(), itertools.count()
    monkeypatch.setattr(recorder.time, "perf_counter", lambda: float(next(ticks)))
    history = meta_train(
        learner, Sinusoids(), steps=5, optimizer=adam(learner), meta_batch=6, on_step=lambda *_: next(ticks)
    )
    assert history.tasks_per_second == [6.0] * 5


def test_read_late_the_error_names_the_first_bad_step_and_no_checkpoint_follows_it(ahead, tmp_path):
    learner = maml()

    def spoil(step, learner):
        if step in (6, 7):  # the losses of steps 7 and 8 are nan, those after them finite again
            saved.append(copy.deepcopy(learner.state_dict()))
            next(learner.parameters()).data.fill_(torch.nan)
        if step == 8:
            learner.load_state_dict(saved[0])

    saved, options = [], dict(checkpoint=tmp_path / "run", checkpoint_every=5)
    optimizer = torch.optim.SGD(learner.parameters(), lr=1e-3)
    with pytest.raises(FloatingPointError, match="the meta-loss is nan at step 7 of 50"):
        meta_train(learner, Sinusoids(), steps=50, optimizer=optimizer, on_step=spoil, **options)
    assert load(tmp_path / "run")["step"] == 5


def test_an_interrupt_is_not_put_off_until_the_next_reading(ahead, tmp_path):
    learner = maml()

    with pytest.raises(Interrupted, match="after step 4 of 50") as caught:
        meta_train(
            learner,
            Sinusoids(),
            steps=50,
            optimizer=adam(learner),
            checkpoint=tmp_path / "run",
            on_step=lambda step, _: step == 4 and press(),
        )
    assert len(caught.value.history.loss) == load(tmp_path / "run")["step"] == 4


@pytest.mark.parametrize(
    ("device", "seconds", "steps"), [("cpu", 1e-3, 1), ("cuda", 1e-3, 50), ("cuda", 0.1, 5), ("cuda", 3.0, 1)]
)
def test_losses_are_read_every_half_second_or_fifty_steps(device, seconds, steps):
    assert recorder._steps_between_readings(torch.device(device), seconds) == steps
