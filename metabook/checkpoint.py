"""Files that a run is continued from: whole or not there at all, checked when they are read, and without code.

A file is one line, `metabook checkpoint <version> <SHA-256 of the rest>`, and what `torch.save` writes.  torch does
not notice a flipped byte in the weights; the digest does.  Reading is `torch.load(weights_only=True)`, which builds
tensors, containers, numbers and strings, and runs nothing.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import io
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metabook.evaluation import Scores
from metabook.history import History
from metabook.learner import Learner

VERSION = 1
ENTRIES = ("run", "step", "learner", "optimizer", "scheduler", "generators", "history", "best")
_HEADER = re.compile(rb"metabook checkpoint (\d+)(?: ([0-9a-f]{64}))?\n")


def restore(path: str | Path, learner: Learner, best: bool = False) -> History:
    """Give a learner the weights that a run of `meta_train(..., checkpoint=path)` left behind.

    Args:
        path: the checkpoint.
        learner: built like the one that was trained; its parameters and buffers are overwritten, on its device.
        best: take the weights of the best validation so far instead of the last ones.

    Returns:
        The history of the run; `history.best` says which step was the best.

    Raises:
        ValueError: the file is not a sound checkpoint, the learner has other tensors, or nothing was validated.
        FileNotFoundError: there is no such file.
    """
    state = load(path)
    if best and state["best"] is None:
        raise ValueError(f"{path} has no best weights, because the run did not validate; call restore without best")
    weights = state["best"]["learner"] if best else state["learner"]
    check_tensors(learner, weights, path)
    learner.load_state_dict(weights)
    return unpack_history(state["history"])


def save(path: str | Path, state: dict[str, Any], rehearse: bool = False) -> None:
    """Write a checkpoint so that the file is, at any moment and after any crash, the former one or the new one.

    Args:
        path: the file, in a folder that is made if it is missing.
        state: containers of tensors, numbers, strings and None.
        rehearse: write it beside `path` and remove it again, to learn early whether that is possible.

    Raises:
        OSError: the disk is full, or the folder cannot be written to; what was at `path` is as before.
        ValueError: the state holds something that could not be read again.
    """
    target = Path(os.path.realpath(path))  # a link stays a link
    content = _encode(state, path)
    part = target.with_name(f".{target.name}.{os.urandom(4).hex()}.part")
    try:
        if not target.parent.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as file:
            for piece in content:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        if not rehearse:
            os.replace(part, target)
            _sync_folder(target.parent)
    except OSError as error:
        before = "the last good checkpoint there is intact" if target.exists() else "there is no checkpoint yet"
        raise OSError(
            error.errno, f"the checkpoint {path} could not be written: {error.strerror or error}; {before}"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint, with all tensors on the CPU.

    Raises:
        ValueError: the file is damaged, is not one of ours, or was written by a newer version; it is left alone.
        FileNotFoundError: there is no such file.
    """
    content = Path(path).read_bytes()
    header = _HEADER.match(content)
    if header is None:
        raise ValueError(f"{path} is not a checkpoint of meta_train, or its first bytes are lost; choose another path")
    if int(header[1]) > VERSION:
        raise ValueError(
            f"{path} is a checkpoint of version {int(header[1])}, and this metabook reads up to {VERSION}; update it"
        )
    payload = memoryview(content)[header.end() :]
    if header[2] is None or hashlib.sha256(payload).hexdigest().encode() != header[2]:
        raise ValueError(f"{path} is damaged: its checksum differs; restore it from a copy, or delete it to start anew")
    try:
        state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{path} holds something else than tensors and plain values, and was not read further; "
            "do not use it unless you know where it comes from"
        ) from error
    if not isinstance(state, dict) or not set(ENTRIES) <= state.keys():
        raise ValueError(f"{path} is not a checkpoint of meta_train: it lacks some of {', '.join(ENTRIES)}")
    return state


def remove_leftovers(path: str | Path) -> None:
    """Remove the temporary files that killed processes left beside a checkpoint."""
    target = Path(os.path.realpath(path))
    for part in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def check_tensors(learner: Learner, saved: dict[str, Any], path: str | Path) -> None:
    """Raise one `ValueError` with all differences unless a learner has the saved names, shapes and dtypes."""
    there, here = _tensors(saved), _tensors(learner.state_dict())
    differences = [f"{name} is not in the learner" for name in there if name not in here]
    differences += [f"{name} is not in the checkpoint" for name in here if name not in there]
    differences += [
        f"{name} is {there[name]} in the checkpoint and {here[name]} in the learner"
        for name in there
        if name in here and there[name] != here[name]
    ]
    if differences:
        raise ValueError(
            f"{path} is of another model: {'; '.join(differences)}. Build the learner as it was trained, or choose "
            "another path; nothing was changed"
        )


def pack_history(history: History) -> dict[str, Any]:
    """A history as tensors and plain values."""
    columns = {name: torch.tensor(getattr(history, name), dtype=torch.float64) for name in _COLUMNS}
    return columns | {"validation": [(step, vars(scores).copy()) for step, scores in history.validation]}


def unpack_history(packed: dict[str, Any]) -> History:
    """The history that `pack_history` packed, number by number."""
    columns = {name: packed[name].tolist() for name in _COLUMNS}
    return History(**columns, validation=[(step, Scores(**scores)) for step, scores in packed["validation"]])


_COLUMNS = ("loss", "score", "tasks_per_second")


def _encode(state: dict[str, Any], path: str | Path) -> tuple[bytes, memoryview]:
    buffer = io.BytesIO()
    try:
        torch.save(_plain(state), buffer)
        buffer.seek(0)
        torch.load(buffer, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"the run cannot be written to {path}: learner, optimizer or scheduler have in their state_dict something "
            f"else than tensors, containers, numbers and strings; keep it out of there ({error})"
        ) from error
    payload = buffer.getbuffer()
    return b"metabook checkpoint %d %s\n" % (VERSION, hashlib.sha256(payload).hexdigest().encode()), payload


def _plain(value: Any) -> Any:
    """Numbers of numpy, such as a rate out of `np.logspace`, as numbers of Python."""
    if isinstance(value, np.generic):
        return value.item()
    if type(value) is dict:
        return {key: _plain(entry) for key, entry in value.items()}
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value


def _tensors(state: dict[str, Any]) -> dict[str, str]:
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    return {name: f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for name, t in tensors.items()}


def _sync_folder(folder: Path) -> None:
    """Make the new name itself survive a power failure, where the file system can (some network ones refuse)."""
    if os.name == "posix":
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
