"""Two processes under torchrun (gloo, on this machine) do what one does, and none outlives the other."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from examples import classification, regression

from metabook.checkpoint import load
from metabook.distributed import Processes

pytestmark = [
    pytest.mark.skipif(not dist.is_available() or sys.platform != "linux", reason="needs torchrun and gloo"),
    pytest.mark.xdist_group("torchrun"),  # the tests share their launches
]

COMMON = '''
import os, signal, time
import torch
from examples import classification
from torch import nn
from metabook import MAML, PrototypicalNetwork, evaluate, meta_train
from metabook.distributed import Processes
from metabook.interrupts import Interrupted
from metabook.networks import mlp
from metabook.tasks import Quadratics, TaskDistribution

rank, results = int(os.environ.get("RANK", 0)), {}
torch.manual_seed(rank)  # other initial weights on each process: those of process 0 count

class Blobs(TaskDistribution):
    device = torch.device("cpu")

    def __repr__(self):
        return "Blobs()"

    def sample(self, n, generator):
        return classification(tasks=n, seed=int(torch.randint(10**6, (), generator=generator)))

def weights(learner):
    return nn.utils.parameters_to_vector(learner.parameters()).detach()

def run(name, at_step_7=lambda: None, seen=None):
    """A run of 12 steps with a checkpoint: its weights, losses and validations."""
    def on_step(step, learner):
        if step == 7:
            at_step_7()
        if seen is not None:
            seen.append(step)

    torch.manual_seed(rank)  # other dropout masks on each process, too, which a resumed run must continue
    network = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1)).double()
    learner = MAML(network, inner_lr=0.1)
    history = meta_train(
        learner, Quadratics(), steps=12, meta_batch=5, optimizer=torch.optim.Adam(learner.parameters(), lr=0.01),
        validation=Quadratics(), validate_every=4, validation_tasks=30,
        checkpoint=name + ".ckpt", checkpoint_every=3, on_step=on_step,
    )
    scores = [scores.per_task for _, scores in history.validation]
    return [weights(learner), torch.tensor(history.loss), torch.tensor(history.score), *scores]
'''


def launch(folder: Path, script: str, end: str) -> tuple[list, str]:
    """Run a script in two processes under torchrun; it must come to its `end`, and that must fail.

    A launch imports torch three times, so each serves several tests.

    Returns:
        The `results` of each process, and the standard error.
    """
    file, path = folder / "script.py", os.pathsep.join([str(Path(__file__).parent), *sys.path])
    file.write_text(f"{COMMON}\n{script}\ntorch.save(results, f'{{rank}}.pt')\n{end}")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", file.name],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=100,  # enough for a busy machine, and far less than one process waits for another
    )
    files = [folder / f"{rank}.pt" for rank in range(2)]
    assert done.returncode != 0 and all(file.exists() for file in files), done.stderr
    results = [torch.load(file, weights_only=False) for file in files]
    for file in files:
        file.unlink()
    return results, done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def first(folder):
    """Sums, errors and training; then one process raises an error."""
    end = """
def fail():
    if rank == 1:
        raise RuntimeError("the lamp went out")

run("failed", fail)
"""
    return launch(folder, PRIMITIVES + TRAINING, end)


@pytest.fixture(scope="module")
def second(folder):
    """One process is interrupted; then one is killed, that which writes the checkpoints."""
    script = """
try:
    run("interrupted", lambda: rank == 1 and os.kill(os.getpid(), signal.SIGINT))
except Interrupted as interrupted:
    results["interrupted"] = str(interrupted), len(interrupted.history.loss)
"""
    return launch(folder, script, 'run("killed", lambda: rank == 0 and os.kill(os.getpid(), signal.SIGKILL))')


@pytest.fixture(scope="module")
def third(folder, first, second):
    """The three runs are continued, beside one that nothing interrupts; then torchrun itself is stopped."""
    shutil.copy(folder / "killed.ckpt", folder / "alone.ckpt")
    script = """
for name in ("uninterrupted", "failed", "interrupted", "killed"):
    seen = []
    results[name] = run(name, seen=seen), seen[0]
"""
    end = """
def stop():
    if rank == 0:
        received, handler = [], signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, lambda *event: received.append(event) or handler(*event))
        os.kill(os.getppid(), signal.SIGTERM)
        while not received:  # torchrun passes it on
            time.sleep(0.01)

run("stopped", stop)
"""
    return launch(folder, script, end)


@pytest.mark.parametrize(("tasks", "size"), [(5, 2), (6, 3), (7, 4), (2, 3), (1, 2)])
def test_shares_cut_the_batch_into_consecutive_parts_of_nearly_equal_size(tasks, size):
    episode = regression(tasks)
    shares = [Processes(rank, size).share(episode) for rank in range(size)]
    sizes = [share.tasks if share else 0 for share in shares]
    assert sum(sizes) == tasks and max(sizes) - min(sizes) <= 1 and sizes[0] > 0
    assert torch.equal(torch.cat([share.query.y for share in shares if share]), episode.query.y)


def test_a_process_of_its_own_sends_nothing():
    processes, value = Processes.join(torch.device("cpu")), object()
    assert processes == Processes(0, 1) and processes.leads and not dist.is_initialized()
    assert processes.from_lead(value) is value and processes.gather(value) == [value]
    episode, tensor = classification(), torch.ones(2)
    processes.sum_([tensor])
    processes.check_equal("values", {"a": 1})
    assert torch.equal(processes.share(episode).support.x, episode.support.x) and torch.equal(tensor, torch.ones(2))


def test_a_group_of_the_caller_is_used_if_it_can_send_from_the_cpu():
    dist.init_process_group("cuda:gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match="cuda:gloo.*init_process_group"):
            Processes.join(torch.device("cpu"))
    finally:
        dist.destroy_process_group()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        assert Processes.join(torch.device("cpu")) == Processes(0, 1)
    finally:
        dist.destroy_process_group()


def test_every_process_needs_a_gpu_of_its_own(monkeypatch):
    """As far as it can be tried without one: the processes tell each other which they use."""
    monkeypatch.setattr(dist, "get_backend_config", lambda: "cpu:gloo,cuda:nccl")
    gpus = [("machine", None, 0), ("machine", None, 1), ("other", None, 0)]
    monkeypatch.setattr(Processes, "gather", lambda self, own: [*gpus, own])
    monkeypatch.setattr("socket.gethostname", lambda: "machine")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    Processes(3, 4)._check_backend(torch.device("cuda", 2))
    with pytest.raises(ValueError, match="4 processes share GPUs.*LOCAL_RANK"):
        Processes(3, 4)._check_backend(torch.device("cuda", 1))


PRIMITIVES = """
processes = Processes.join(torch.device("cpu"))
assert processes == Processes.join(torch.device("cpu")) == Processes(rank, 2)
gradients = [
    torch.full((2, 3), rank + 1.0, dtype=torch.float64),
    torch.full((4,), rank + 0.5),
    torch.arange(16.0).view(1, 2, 2, 4).to(memory_format=torch.channels_last),
    torch.tensor(0.5, dtype=torch.bfloat16),
]
addresses = [g.data_ptr() for g in gradients]
processes.sum_(gradients)
assert addresses == [g.data_ptr() for g in gradients]

network = nn.BatchNorm1d(3)
network.running_mean += rank
network.register_buffer("lead", torch.tensor(processes.leads))
processes.copy_from_lead(network)

def error(act, *args, **options):
    try:
        act(*args, **options)
    except (ValueError, OSError) as error:
        return f"{type(error).__name__}: {error}"

maml = MAML(mlp([2, 4, 1]).double())
common = dict(steps=2, optimizer=torch.optim.SGD(maml.parameters(), lr=0.1))
errors = [
    error(processes.copy_from_lead, nn.Linear(2, 2 + rank)),
    error(meta_train, maml, Quadratics(), seed=rank, **common),
    error(meta_train, maml, Quadratics(), meta_batch=1, **common),
    error(meta_train, maml, Quadratics(), checkpoint="script.py/in a file", **common),
    error(processes._check_backend, torch.device("cuda", 0)),
]

learner, tasks = PrototypicalNetwork(mlp([5, 8, 4]).double(), 3), Blobs()
processes.copy_from_lead(learner)
scores = [evaluate(learner, tasks, n=n, batch=4, seed=1, processes=processes) for n in (14, 3)]
alone = [evaluate(learner, tasks, n=n, batch=4, seed=1) for n in (14, 3)] if processes.leads else []
results |= dict(sums=gradients, state=network.state_dict(), errors=errors, scores=scores, alone=alone,
                ranks=processes.gather(rank), lead=processes.from_lead(("lead", rank)), training=learner.training)
"""


TRAINING = """
torch.manual_seed(rank)

def train(learner, tasks, **options):
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.1, momentum=0.9)
    history = meta_train(learner, tasks, steps=4, optimizer=optimizer, **options)
    return dict(weights=weights(learner), loss=history.loss, score=history.score,
                validation=[(step, scores.per_task) for step, scores in history.validation])

def regression(**options):
    return train(MAML(mlp([3, 8, 1]).double(), inner_lr=0.1, inner_steps=2), Quadratics(features=3), **options)

def classifier(**options):
    return train(PrototypicalNetwork(mlp([5, 8, 4]).double(), 3), Blobs(), **options)

results["runs"] = {
    "even": regression(meta_batch=4, progress=True),
    "odd, in chunks": regression(meta_batch=5, chunk=2, seed=3),
    "clipped, validated": classifier(
        meta_batch=5, clip_norm=0.1, validation=Blobs(), validate_every=2, validation_tasks=60
    ),
    "fewest tasks": classifier(meta_batch=2),
}
"""


def test_sums_copies_scores_and_errors_reach_all_processes(first):
    for results in first[0]:
        double, single, image, half = results["sums"]
        assert torch.equal(double, torch.full((2, 3), 3.0, dtype=torch.float64))
        assert torch.equal(single, torch.full((4,), 2.0)) and half == 1
        assert torch.equal(image, 2 * torch.arange(16.0).view(1, 2, 2, 4))
        assert results["state"]["lead"] and torch.equal(results["state"]["running_mean"], torch.zeros(3))
        assert results["lead"] == ("lead", 0) and results["ranks"] == [0, 1]
        model, seed, batch, checkpoint, gpu = results["errors"]
        assert model.startswith(
            "ValueError: tensors of the learner must be the same on all processes, but weight is (2,"
        )
        assert model.count(";") == 1 and seed.startswith("ValueError: arguments of meta_train must be the same")
        assert "seed is 0 on 0 and 1 on 1" in seed and seed.count(";") == 0
        assert batch.startswith("ValueError: meta_batch must") and "could not be written" in checkpoint
        assert gpu is None  # a group of gloo alone may share a GPU
        for shared, alone in zip(results["scores"], first[0][0]["alone"], strict=True):  # 4 batches; 1
            assert torch.equal(shared.per_task, alone.per_task) and shared.protocol == alone.protocol
        assert results["training"]


def test_two_processes_train_as_one(first):
    """The same script, under torchrun and here: equal histories and weights, in float64."""
    results, err = first
    exec(COMMON + TRAINING, alone := {})
    for name, one in alone["results"]["runs"].items():
        two, other = (r["runs"][name] for r in results)
        assert torch.equal(two["weights"], other["weights"]) and two["loss"] == other["loss"]
        torch.testing.assert_close(two["weights"], one["weights"], rtol=1e-10, atol=1e-12)
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-6)  # losses are kept in single precision
        assert two["score"] == pytest.approx(one["score"], rel=1e-6)
        assert [step for step, _ in two["validation"]] == [step for step, _ in one["validation"]]
        for (_, a), (_, b) in zip(two["validation"], one["validation"], strict=True):
            torch.testing.assert_close(a, b)
    assert err.count(" 0/4 [") == 1  # one bar


def test_a_process_that_fails_ends_the_run_with_its_error(folder, first):
    _, err = first
    assert "RuntimeError: the lamp went out" in err and load(folder / "failed.ckpt")["step"] == 6


def test_processes_agree_when_to_stop(folder, second, third):
    """A signal to one process ends all after the same step, and a checkpoint of that step is there."""
    for results in second[0]:
        message, steps = results["interrupted"]
        assert message.startswith("interrupted after step 8 of 12") and steps == 8
    _, err = third
    assert err.count("Interrupted: interrupted after step 8 of 12") == 2
    assert load(folder / "stopped.ckpt")["step"] == 8


def test_a_run_is_continued_bit_for_bit(folder, second, third):
    for results in third[0]:
        expected, start = results["uninterrupted"]
        assert start == 1
        for name, step in {"failed": 7, "interrupted": 9, "killed": 7}.items():
            found, start = results[name]
            assert start == step, name
            assert all(torch.equal(there, here) for there, here in zip(expected, found, strict=True)), name
    assert not [file for file in folder.iterdir() if file.name.endswith(".part")]


def test_one_process_goes_on_where_two_stopped(folder, third, monkeypatch):
    monkeypatch.chdir(folder)
    exec(COMMON, alone := {})
    _, losses, *_ = alone["run"]("alone")
    _, expected, *_ = third[0][0]["killed"][0]
    assert len(losses) == 12 and torch.equal(losses[:6], expected[:6])
