"""Checkpoint files: whole or not there, through kills and full disks; damaged and foreign ones are refused."""

import errno
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from runs import learner, leftovers, same, train

from metabook import checkpoint as files
from metabook.checkpoint import load, restore, save

STATE = {name: None for name in files.ENTRIES} | {"learner": {"w": torch.arange(1000.0)}, "step": 3}


def test_restore_gives_last_or_best_weights_and_the_history(tmp_path):
    seen = {}
    model, _, history = train(
        tmp_path / "run", 12, lr=0.5, on_step=lambda step, m: seen.update({step: [p.clone() for p in m.parameters()]})
    )
    step, scores = history.best
    assert step < 12, "this test needs a run that gets worse"
    later = learner()
    assert restore(tmp_path / "run", later).best[1].mean == scores.mean
    assert all(map(torch.equal, later.parameters(), model.parameters()))
    restore(tmp_path / "run", later, best=True)
    assert all(map(torch.equal, later.parameters(), seen[step]))
    assert train(tmp_path / "run", 13, lr=0.5)[2].best[0] == step  # best weights outlive a continued run
    restore(tmp_path / "run", later, best=True)
    assert all(map(torch.equal, later.parameters(), seen[step]))
    train(tmp_path / "other", 2, validation=None)
    with pytest.raises(ValueError, match="did not validate"):
        restore(tmp_path / "other", later, best=True)


def test_every_flipped_byte_and_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "run"
    save(path, STATE)
    content, rng = path.read_bytes(), random.Random(0)
    for place in (0, 20, 25, 90, len(content) - 1, *(rng.randrange(len(content)) for _ in range(200))):
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged|not a checkpoint|of version"):
            load(path)
        assert path.read_bytes() == damaged
    for size in (0, 10, 30, 86, 87, 88, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match="damaged|not a checkpoint"):
            load(path)
    path.write_bytes(content)
    assert same(load(path), STATE)


def test_a_damaged_checkpoint_stops_the_run_and_is_left_alone(tmp_path):
    train(tmp_path / "run", 2)
    content = bytearray((tmp_path / "run").read_bytes())
    content[-200] ^= 1
    (tmp_path / "run").write_bytes(content)
    with pytest.raises(ValueError, match="run is damaged: its checksum differs; restore it from a copy, or delete it"):
        train(tmp_path / "run", 4)
    assert (tmp_path / "run").read_bytes() == content


def test_foreign_and_newer_files_are_refused(tmp_path):
    path = tmp_path / "run"
    torch.save({"w": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="is not a checkpoint of meta_train"):
        train(path, 2)
    save(path, {"w": torch.zeros(2)})
    with pytest.raises(ValueError, match="lacks some of run, step, learner"):
        train(path, 2)
    path.write_bytes(b"metabook checkpoint 7\nwhatever comes then")
    with pytest.raises(ValueError, match=f"of version 7, and this metabook reads up to {files.VERSION}; update it"):
        train(path, 2)
    with pytest.raises(FileNotFoundError):
        restore(tmp_path / "nothing", learner())


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_code_in_a_file_is_not_run(tmp_path, monkeypatch):
    """With the right header and digest: anybody can compute them."""
    monkeypatch.chdir(tmp_path)
    torch.save({**STATE, "best": Malicious()}, "payload")
    payload = Path("payload").read_bytes()
    digest = hashlib.sha256(payload).hexdigest().encode()
    Path("run").write_bytes(b"metabook checkpoint %d %s\n%s" % (files.VERSION, digest, payload))
    with pytest.raises(ValueError, match="something else than tensors and plain values"):
        train("run", 2)
    assert not Path("executed").exists()
    torch.load("payload", weights_only=False)
    assert Path("executed").exists()  # it would have worked


def full_disk():
    """Every file of this process may have 64 KiB from now on; returns what lifts the limit."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path):
    lift = []

    def on_step(step, _):
        if step == 5:
            lift.append(full_disk())

    try:
        with pytest.raises(
            OSError, match="could not be written: .*; the last good checkpoint there is intact"
        ) as caught:
            train(tmp_path / "run", model=learner(2000), checkpoint_every=2, on_step=on_step)
    finally:
        lift[0]()
    assert caught.value.errno == errno.EFBIG and leftovers(tmp_path) == []
    assert load(tmp_path / "run")["step"] == 4
    assert train(tmp_path / "run", model=learner(2000))[2].loss == train(model=learner(2000))[2].loss


def test_a_disk_that_is_full_before_the_first_step_is_noticed_then(tmp_path):
    steps, lift = [], full_disk()
    try:
        with pytest.raises(OSError, match="could not be written: .*; there is no checkpoint yet"):
            train(tmp_path / "run", model=learner(8000), on_step=lambda step, _: steps.append(step))
    finally:
        lift()
    assert steps == [] and list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_written_is_noticed_before_the_first_step(tmp_path):
    (tmp_path / "file").touch()
    steps = []
    with pytest.raises(OSError, match="could not be written"):
        train(tmp_path / "file" / "run", on_step=lambda step, _: steps.append(step))
    assert steps == []


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_interrupted_or_failed_write_leaves_the_former_file_and_nothing_else(tmp_path, monkeypatch, call):
    save(tmp_path / "run", STATE)
    for error in (KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")):

        def fail(*_, error=error):
            raise error

        monkeypatch.setattr(os, call, fail)
        with pytest.raises(type(error)):
            save(tmp_path / "run", {**STATE, "step": 4})
        monkeypatch.undo()
        assert same(load(tmp_path / "run"), STATE) and leftovers(tmp_path) == []


def test_temporary_files_of_killed_processes_are_removed(tmp_path):
    for name in (".run.0123abcd.part", ".run[1].0123abcd.part", ".rundown.0123abcd.part", "run.txt"):
        (tmp_path / name).touch()
    train(tmp_path / "run[1]", 1)
    train(tmp_path / "run", 1)
    assert {file.name for file in tmp_path.iterdir()} == {"run", "run[1]", ".rundown.0123abcd.part", "run.txt"}


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk" / "run")
    train(tmp_path / "run", 1)
    assert (tmp_path / "run").is_symlink() and load(tmp_path / "disk" / "run")["step"] == 1


LIVES, STEPS = 18, 150


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_many_times_at_any_moment_it_ends_as_if_it_never_was(tmp_path):
    """SIGKILL, which nothing can catch.  A process with one thread has torch ready and starts the lives by fork."""
    script = subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert script.returncode == 0, script.stderr
    deaths = json.loads(script.stdout)
    assert len(deaths) == LIVES and all(death["killed"] for death in deaths)
    steps = [death["step"] for death in deaths]
    assert steps == sorted(steps) and len(set(steps)) > LIVES // 3 and 0 < steps[-1] < STEPS
    assert max(death["leftovers"] for death in deaths) == 1  # some died while writing, and they do not add up
    assert leftovers(tmp_path) == []
    assert same(load(tmp_path / "killed"), load(tmp_path / "whole"))


def _lives(folder: Path) -> list[dict]:
    """Let a run be killed at random moments, then finish; beside it the same run in one piece."""
    rng, deaths = random.Random(0), []
    for number in range(LIVES):
        child, trains = _start(folder / "killed", slow=True)
        if number % 3:  # else it may die while it starts
            os.read(trains, 1)
        time.sleep(rng.uniform(0, 0.2))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        os.close(trains)
        step = load(folder / "killed")["step"] if (folder / "killed").exists() else 0
        deaths.append({"killed": os.WIFSIGNALED(status), "step": step, "leftovers": len(leftovers(folder))})
    for name in ("killed", "whole"):
        child, _ = _start(folder / name, slow=False)
        _, status = os.waitpid(child, 0)
        assert status == 0, status
    return deaths


def _start(path: Path, slow: bool) -> tuple[int, int]:
    """A child that trains, and a pipe on which it says that it has begun to."""
    trains, begun = os.pipe()
    child = os.fork()
    if child == 0:
        sync = os.fsync
        if slow:  # as a disk is, so that many kills meet a file that is not yet in place
            os.fsync = lambda descriptor: (sync(descriptor), time.sleep(0.02))
        on_step = (lambda *_: os.write(begun, b".")) if slow else None
        train(path, STEPS, validate_every=50, checkpoint_every=1 if slow else STEPS, on_step=on_step)
        os._exit(0)
    os.close(begun)
    return child, trains


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(steps=1)  # what torch loads late is loaded before the first life
    print(json.dumps(_lives(Path(sys.argv[1]))))
