"""The outer loop: it learns, repeats itself, reports, and stops when it should."""

import copy

import pytest
import torch
from examples import images
from torch import nn

from metabook import MAML, NearestNeighbour, PrototypicalNetwork, meta_train, training
from metabook.distributed import Processes
from metabook.networks import mlp
from metabook.tasks import FewShot, Quadratics, Sinusoids


def maml(seed=0):
    torch.manual_seed(seed)
    return MAML(mlp([1, 16, 1]), inner_lr=0.01)


def adam(learner, lr=1e-2):
    return torch.optim.Adam(learner.parameters(), lr=lr)


def test_reaches_the_optimum_of_the_meta_objective():
    """On quadratics the best start has a closed form, from the same generator that trained it."""
    tasks, alpha = Quadratics(features=2, curvature=(0.5, 1.5)), 0.3
    learner = MAML(nn.Linear(2, 1, bias=False).double(), inner_lr=alpha)
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.2)
    meta_train(learner, tasks, steps=300, optimizer=optimizer, meta_batch=200)
    # centres have mean zero and do not depend on the curvature: the best start is the origin
    assert learner.network.weight.abs().max() < 0.1


def test_works_with_any_optimiser_scheduler_and_clipping():
    learner = maml()
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.1)
    meta_train(learner, Sinusoids(), steps=4, optimizer=optimizer, scheduler=scheduler, clip_norm=1.0)
    assert scheduler.get_last_lr()[0] == pytest.approx(0.001)


def test_clipping_bounds_the_update():
    learner, tasks = maml(), Sinusoids()
    before = nn.utils.parameters_to_vector(learner.parameters()).detach().clone()
    optimizer = torch.optim.SGD(learner.parameters(), lr=1.0)
    meta_train(learner, tasks, steps=1, optimizer=optimizer, clip_norm=1e-3)
    after = nn.utils.parameters_to_vector(learner.parameters()).detach()
    assert (after - before).norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_same_seeds_same_run(device):
    runs = []
    for _ in range(2):
        learner = maml().to(device)
        history = meta_train(learner, Sinusoids(device=device), steps=5, optimizer=adam(learner), seed=3)
        runs.append((history.loss, nn.utils.parameters_to_vector(learner.parameters())))
    if device.type == "cpu":  # on a GPU sums may be ordered differently from run to run
        assert runs[0][0] == runs[1][0] and torch.equal(runs[0][1], runs[1][1])
    torch.testing.assert_close(runs[0][1], runs[1][1])


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_chunks_give_the_same_gradient(chunk):
    """One step of plain descent in float64: the weights agree to 1e-10, whatever the chunk."""
    tasks = Quadratics(features=3)
    whole = MAML(nn.Linear(3, 1, bias=False).double(), inner_lr=0.2, inner_steps=2)
    parts = copy.deepcopy(whole)
    losses = []
    for learner, size in ((whole, None), (parts, chunk)):
        optimizer = torch.optim.SGD(learner.parameters(), lr=0.5)
        losses.append(meta_train(learner, tasks, steps=1, optimizer=optimizer, meta_batch=5, chunk=size).loss)
    torch.testing.assert_close(parts.network.weight, whole.network.weight, rtol=1e-10, atol=1e-12)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_history_records_every_step_and_validations():
    learner, tasks = maml(), Sinusoids()
    history = meta_train(
        learner,
        tasks,
        steps=7,
        optimizer=adam(learner),
        validation=tasks,
        validate_every=3,
        validation_tasks=5,
    )
    assert history.steps == list(range(1, 8))
    assert len(history.loss) == len(history.score) == len(history.tasks_per_second) == 7
    assert [step for step, _ in history.validation] == [3, 6, 7]
    assert all(scores.metric == "mse" and len(scores.per_task) == 5 for _, scores in history.validation)
    assert history.loss == pytest.approx(history.score)  # the loss of a regression is its mean squared error


def test_score_of_a_classifier_is_its_accuracy():
    learner = PrototypicalNetwork(nn.Sequential(nn.Flatten(), nn.Linear(64, 8)), 3)
    tasks = FewShot(images(), ways=3, shots=1, queries=2)
    history = meta_train(learner, tasks, steps=3, optimizer=adam(learner))
    assert all(0 <= score <= 1 and round(24 * score) == pytest.approx(24 * score, abs=1e-4) for score in history.score)


def test_validation_does_not_change_the_run():
    """Scoring draws from its own generator, so the losses are those of a run without it."""
    losses = []
    for validation in (None, Sinusoids()):
        learner = maml()
        options = dict(steps=6, optimizer=adam(learner), validate_every=2, validation_tasks=3)
        losses.append(meta_train(learner, Sinusoids(), validation=validation, **options).loss)
    assert losses[0] == losses[1]


def test_stops_at_the_step_whose_loss_is_not_finite():
    learner = MAML(mlp([1, 8, 1]), inner_lr=0.01)
    optimizer = torch.optim.SGD(learner.parameters(), lr=1e30)
    with pytest.raises(FloatingPointError, match="the meta-loss is .* at step [23] of 50; lower the outer"):
        meta_train(learner, Sinusoids(), steps=50, optimizer=optimizer)


def test_on_step_sees_every_step():
    learner, seen = maml(), []
    meta_train(learner, Sinusoids(), steps=3, optimizer=adam(learner), on_step=lambda step, _: seen.append(step))
    assert seen == [1, 2, 3]


def test_bar_shows_loss_score_and_speed(capsys):
    learner = maml()
    meta_train(learner, Sinusoids(), steps=3, optimizer=adam(learner), progress=True)
    shown = capsys.readouterr().err
    assert "loss" in shown and "score" in shown and "tasks/s" in shown
    meta_train(learner, Sinusoids(), steps=3, optimizer=adam(learner))  # METABOOK_PROGRESS=0 in the tests
    assert capsys.readouterr().err == ""


def test_every_process_needs_a_task(monkeypatch):
    monkeypatch.setattr(training.Processes, "join", lambda device: Processes(0, 3))
    learner = maml()
    with pytest.raises(ValueError, match="meta_batch must give each of the 3 processes a task, got 2"):
        meta_train(learner, Sinusoids(), steps=1, optimizer=adam(learner), meta_batch=2)


@pytest.mark.parametrize(
    "options", [{"steps": 0}, {"meta_batch": 0}, {"chunk": -1}, {"validate_every": 0}, {"checkpoint_every": 0}]
)
def test_counts_must_be_positive(options):
    learner = maml()
    with pytest.raises(ValueError, match="must be a positive integer"):
        meta_train(learner, Sinusoids(), **{"steps": 1, "optimizer": adam(learner), **options})


def test_a_learner_without_parameters_cannot_be_trained():
    tasks = FewShot(images(), ways=3, shots=1, queries=2)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    with pytest.raises(ValueError, match="NearestNeighbour has no parameters"):
        meta_train(NearestNeighbour(3), tasks, steps=1, optimizer=optimizer)


def test_a_traced_run_is_the_same_run(device):
    """Five tasks in chunks of two, so that the last chunk has a program of its own."""
    ends = []
    for mode in ("eager", "traced"):
        learner = maml().to(device)
        options = dict(steps=5, optimizer=adam(learner), meta_batch=5, chunk=2)
        history = meta_train(learner, Sinusoids(device=device), mode=mode, **options)
        ends.append([torch.tensor(history.loss), nn.utils.parameters_to_vector(learner.parameters()).detach()])
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-5)
