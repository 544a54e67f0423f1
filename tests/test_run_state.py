"""Runs are continued bit for bit, and only by themselves: what was stopped, by whatever, goes on as if nothing was."""

import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import learner, leftovers, press, same, stop_at, train
from torch import nn
from torch.optim import lr_scheduler as schedules

from metabook import MAML, Episode, meta_train
from metabook.checkpoint import load, restore
from metabook.interrupts import Interrupted
from metabook.networks import mlp
from metabook.tasks import Sinusoids, TaskDistribution


@pytest.mark.parametrize("sgd", [False, True])
@pytest.mark.parametrize("when", [1, 3, 4, 7])
def test_a_continued_run_is_the_uninterrupted_one_bit_for_bit(tmp_path, sgd, when):
    whole_model, whole_optimizer, whole = train(tmp_path / "whole", sgd=sgd)
    with pytest.raises(RuntimeError, match="lights"):
        train(tmp_path / "run", sgd=sgd, checkpoint_every=2, on_step=stop_at(when))
    assert (tmp_path / "run").exists() == (when > 2)  # an error within a step leaves the last good checkpoint alone
    torch.manual_seed(99)  # another script may have drawn anything in between
    model, optimizer, history = train(tmp_path / "run", sgd=sgd, checkpoint_every=3)
    assert same(dict(model.state_dict()), dict(whole_model.state_dict()))
    assert same(optimizer.state_dict(), whole_optimizer.state_dict())
    assert history.loss == whole.loss and history.score == whole.score and len(history.tasks_per_second) == 8
    assert same([(step, vars(s)) for step, s in history.validation], [(step, vars(s)) for step, s in whole.validation])
    assert same(load(tmp_path / "run"), load(tmp_path / "whole"))  # generators and best weights, too


SCHEDULES = {
    "one cycle": lambda o: schedules.OneCycleLR(o, 0.1, total_steps=9),
    "restarts": lambda o: schedules.CosineAnnealingWarmRestarts(o, 2),
    "milestones": lambda o: schedules.MultiStepLR(o, [2, 5]),
    "function": lambda o: schedules.LambdaLR(o, lambda step: 1 / (step + 1)),
    "sequence": lambda o: schedules.SequentialLR(o, [schedules.LinearLR(o), schedules.ExponentialLR(o, 0.9)], [4]),
    "chain": lambda o: schedules.ChainedScheduler([schedules.LinearLR(o), schedules.StepLR(o, 3)]),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("anew", [True, False])
def test_schedules_go_on_in_a_new_script_and_in_a_cell_that_is_run_again(tmp_path, schedule, anew):
    def parts():
        model = learner()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
        return model, optimizer, SCHEDULES[schedule](optimizer)

    def run(model, optimizer, scheduler, **options):
        meta_train(model, Sinusoids(), steps=8, optimizer=optimizer, scheduler=scheduler, **options)
        return dict(model.state_dict()), optimizer.state_dict()

    whole, first = run(*parts()), parts()
    with pytest.raises(Interrupted):
        run(*first, checkpoint=tmp_path / "run", on_step=lambda step, _: step == 5 and press())
    assert same(run(*(parts() if anew else first), checkpoint=tmp_path / "run"), whole)


def test_checkpoints_do_not_change_the_run(tmp_path):
    model, _, history = train(tmp_path / "run", checkpoint_every=1)
    plain, _, without = train()
    assert same(dict(model.state_dict()), dict(plain.state_dict())) and history.loss == without.loss


def test_a_longer_run_continues_a_shorter_one(tmp_path):
    train(tmp_path / "run", 5, validation=None)
    model, _, history = train(tmp_path / "run", 8, validation=None, chunk=4, checkpoint_every=1, progress=False)
    whole, _, expected = train(steps=8, validation=None)
    assert same(dict(model.state_dict()), dict(whole.state_dict())) and history.loss == expected.loss


def test_a_finished_run_returns_at_once(tmp_path):
    first, _, done = train(tmp_path / "run")
    steps = []
    model, _, history = train(tmp_path / "run", on_step=lambda step, _: steps.append(step))
    assert steps == [] and history.loss == done.loss and same(dict(model.state_dict()), dict(first.state_dict()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_checkpoint_and_history(tmp_path, number):
    before = signal.getsignal(number)

    def on_step(step, _):
        if step == 5:
            press(number)

    with pytest.raises(Interrupted, match=r"after step 5 of 8; run the same again to continue from .*run") as caught:
        train(tmp_path / "run", on_step=on_step)
    assert signal.getsignal(number) is before
    assert len(caught.value.history.loss) == 5 and load(tmp_path / "run")["step"] == 5
    _, _, history = train(tmp_path / "run")
    assert history.loss == train()[2].loss


def test_a_second_interrupt_stops_at_once_and_the_checkpoint_stays(tmp_path):
    before = signal.getsignal(signal.SIGINT)

    def on_step(step, _):
        if step == 5:
            for _ in range(2):
                press()

    with pytest.raises(KeyboardInterrupt, match="twice") as caught:
        train(tmp_path / "run", checkpoint_every=2, on_step=on_step)
    assert not isinstance(caught.value, Interrupted) and signal.getsignal(signal.SIGINT) is before
    assert load(tmp_path / "run")["step"] == 4 and leftovers(tmp_path) == []


def test_an_interrupt_without_checkpoint_keeps_the_history():
    with pytest.raises(Interrupted, match="after step 2 of 8; the history") as caught:
        train(on_step=lambda step, _: step == 2 and press())
    assert caught.value.history.steps == [1, 2]


def test_training_in_another_thread_works(tmp_path):
    histories = []
    thread = threading.Thread(target=lambda: histories.append(train(tmp_path / "run", 4)[2]))
    thread.start()
    thread.join()
    assert histories[0].steps == [1, 2, 3, 4] and load(tmp_path / "run")["step"] == 4


CHANGES = {
    r"seed is 0 there and 1 here": dict(seed=1),
    r"meta_batch is 4 there and 5 here": dict(meta_batch=5),
    r"clip_norm is 1.0 there and None here": dict(clip_norm=None),
    r"optimizer is Adam there and SGD here": dict(sgd=True),
    r"optimizer lr is 0.01 there and 0.1 here": dict(lr=0.1),
    r"scheduler gamma is 0.5 there and 0.1 here": dict(gamma=0.1),
    r"tasks is Sinusoids\(10-shot.* there and Sinusoids\(5-shot": dict(tasks=Sinusoids(5)),
    r"validation is Sinusoids.* there and None here": dict(validation=None),
    r"learner inner_lr is 0.01 there and 0.5 here": dict(inner_lr=0.5),
    r"learner network.1 p is 0.3 there and 0.1 here": dict(dropout=0.1),
}


@pytest.mark.parametrize("message", CHANGES)
def test_a_checkpoint_of_another_run_is_refused_and_says_what_differs(tmp_path, message):
    train(tmp_path / "run", 2)
    before, options, model = (tmp_path / "run").read_bytes(), dict(CHANGES[message]), learner()
    model.inner_lr = options.pop("inner_lr", model.inner_lr)
    model.network[1].p = options.pop("dropout", model.network[1].p)
    with pytest.raises(ValueError, match=f"is of another run: .*{message}.*delete that file to start anew"):
        train(tmp_path / "run", 4, model=model, **options)
    assert same(dict(model.state_dict()), dict(learner().state_dict())) and (tmp_path / "run").read_bytes() == before


class Anonymous(TaskDistribution):
    """Has no repr of its own."""

    device = torch.device("cpu")

    def sample(self, n: int, generator: torch.Generator) -> Episode:
        return Sinusoids().sample(n, generator)


def test_tasks_without_a_repr_are_known_by_their_class(tmp_path):
    train(tmp_path / "run", 2, tasks=Anonymous())
    assert train(tmp_path / "run", 3, tasks=Anonymous())[2].steps == [1, 2, 3]


def test_fewer_steps_than_done_are_refused(tmp_path):
    train(tmp_path / "run", 4)
    with pytest.raises(ValueError, match="has 4 steps already, more than the 3 of this call"):
        train(tmp_path / "run", 3)


def test_another_model_is_refused_before_anything_changes(tmp_path):
    train(tmp_path / "run", 2)
    narrow = learner(8)
    narrow.extra = nn.Parameter(torch.zeros(1))
    before = {name: value.clone() for name, value in narrow.state_dict().items()}
    message = r"extra is not in the checkpoint; network.0.weight is \(16, 1\) float32 in the checkpoint and \(8, 1\)"
    with pytest.raises(ValueError, match=message):
        restore(tmp_path / "run", narrow)
    with pytest.raises(ValueError, match="network.0 out_features is 16 there and 8 here"):
        train(tmp_path / "run", 4, model=narrow)
    with pytest.raises(
        ValueError, match="network.0.bias is .* float32 in the checkpoint and .* float64 in the learner"
    ):
        train(tmp_path / "run", 4, model=learner().double(), tasks=Sinusoids())
    assert same(dict(narrow.state_dict()), before)


def test_other_groups_of_the_optimizer_are_refused(tmp_path):
    model = learner()
    options = dict(steps=2, checkpoint=tmp_path / "run")
    meta_train(model, Sinusoids(), optimizer=torch.optim.SGD(model.parameters(), lr=0.1), **options)
    model = learner()
    before = [p.clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(list(model.parameters())[:2], lr=0.1)
    with pytest.raises(ValueError, match=r"optimizer has groups of \[4\] parameters, this one of \[2\]"):
        meta_train(model, Sinusoids(), optimizer=optimizer, **options)
    assert all(map(torch.equal, model.parameters(), before))


def test_numbers_of_numpy_are_stored_as_numbers(tmp_path):
    rate = np.logspace(-3, -1, 3)[1]
    for steps in (2, 3):
        history = train(tmp_path / "run", steps, lr=rate)[2]
    assert history.loss == train(steps=3, lr=rate)[2].loss


class WithPath(MAML):
    """Its state_dict holds an object that only arbitrary code could bring back."""

    def __init__(self):
        super().__init__(mlp([1, 4, 1]))

    def get_extra_state(self):
        return Path("anything")


def test_a_state_that_could_not_be_read_again_is_refused_before_the_first_step(tmp_path):
    steps = []
    with pytest.raises(ValueError, match="the run cannot be written to .*something else than tensors"):
        train(tmp_path / "run", model=WithPath(), on_step=lambda step, _: steps.append(step))
    assert steps == [] and list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    """The loss before the step was fine; continuing from what came after it would be of no use."""

    def spoil(step, model):
        if step == 4:
            with torch.no_grad():
                model.network[0].bias.fill_(torch.nan)

    with pytest.raises(FloatingPointError, match="after step 4 weights are not finite: network.0.bias"):
        train(tmp_path / "run", checkpoint_every=2, on_step=spoil, validation=None)
    assert load(tmp_path / "run")["step"] == 2
