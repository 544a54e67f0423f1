"""All that a run of meta-training consists of between two steps: enough to continue it bit for bit."""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from metabook import checkpoint
from metabook.distributed import Processes
from metabook.history import History
from metabook.learner import Learner
from metabook.tasks.distribution import TaskDistribution

T = TypeVar("T")
Plain = (bool, int, float, str, type(None))


@dataclass
class RunState:
    """The parts of a run that change, and a description of those that must not.

    generator: of the training tasks.
    description: what continuing requires to be the same, as text by name.
    step: steps done.
    best: step, score and the learner's tensors at the best validation so far.
    """

    learner: Learner
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler | None
    generator: torch.Generator
    description: dict[str, str]
    processes: Processes
    step: int = 0
    history: History = field(default_factory=History)
    best: dict[str, Any] | None = None

    def open(self, path: Path, steps: int) -> None:
        """Continue from the checkpoint if there is one; else see that it can be written.

        Raises:
            ValueError: the file is no sound checkpoint, of another run or model, or has more than `steps` steps.
            OSError: the folder cannot be written to.
        """
        state = self._from_lead(lambda: _read(path))
        if state is not None:
            self._check(state, path, steps)
            self._continue(state)
            return
        state = self._state()
        self._from_lead(lambda: checkpoint.save(path, state, rehearse=True))

    def save(self, path: Path) -> None:
        """Write the checkpoint.

        Raises:
            FloatingPointError: weights are not finite.
            OSError: it could not be written.  In both cases the last good checkpoint is intact.
        """
        broken = [name for name, p in self.learner.named_parameters() if not p.isfinite().all()]
        if broken:
            raise FloatingPointError(
                f"after step {self.step} weights are not finite: {', '.join(broken)}; lower the outer rate, or clip "
                f"the gradient with clip_norm. The checkpoint {path}, if there is one, is from an earlier step"
            )
        state = self._state()
        self._from_lead(lambda: checkpoint.save(path, state))

    def keep_best(self) -> None:
        """After a validation: keep the learner's tensors if it was the best."""
        if self.history.best is not None and self.history.best[0] == self.step:
            tensors = self.learner.state_dict()
            for name, value in tensors.items():
                tensors[name] = value.to("cpu", copy=True) if isinstance(value, Tensor) else deepcopy(value)
            self.best = {"step": self.step, "score": self.history.best[1].mean, "learner": tensors}

    def _state(self) -> dict[str, Any]:
        device = _device(self.learner)
        own = {"cpu": torch.get_rng_state()}
        if device.type == "cuda":
            own["cuda"] = torch.cuda.get_rng_state(device)
        return {
            "run": self.description,
            "step": self.step,
            "learner": self.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "generators": {"tasks": self.generator.get_state(), "processes": self.processes.gather(own)},
            "history": checkpoint.pack_history(self.history),
            "best": self.best,
        }

    def _check(self, state: dict[str, Any], path: Path, steps: int) -> None:
        """Raise before anything is changed."""
        there, here = state["run"], self.description
        differences = [
            f"{name} is {there[name]} there and {here[name]} here"
            for name in there
            if name in here and there[name] != here[name]
        ]
        if differences:
            raise ValueError(
                f"{path} is of another run: {'; '.join(differences)}. Give this run another checkpoint, delete that "
                "file to start anew, or take its weights with metabook.restore"
            )
        checkpoint.check_tensors(self.learner, state["learner"], path)
        groups = (state["optimizer"]["param_groups"], self.optimizer.param_groups)
        there, here = ([len(group["params"]) for group in part] for part in groups)
        if there != here:
            raise ValueError(
                f"{path} is of another run: its optimizer has groups of {there} parameters, this one of {here}. "
                "Build it as it was, or give this run another checkpoint; nothing was changed"
            )
        if state["step"] > steps:
            raise ValueError(
                f"{path} has {state['step']} steps already, more than the {steps} of this call; raise steps, or take "
                "the weights with metabook.restore"
            )

    def _continue(self, state: dict[str, Any]) -> None:
        device = _device(self.learner)
        self.learner.load_state_dict(state["learner"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.generator.set_state(state["generators"]["tasks"])
        of_processes = state["generators"]["processes"]
        if len(of_processes) == self.processes.size:
            own = of_processes[self.processes.rank]
            torch.set_rng_state(own["cpu"])
            if device.type == "cuda" and "cuda" in own:
                torch.cuda.set_rng_state(own["cuda"], device)
        self.step, self.best = state["step"], state["best"]
        self.history = checkpoint.unpack_history(state["history"])

    def _from_lead(self, act: Callable[[], T]) -> T:
        """Let the first process act; its result, or its error, reaches all."""
        result = None
        if self.processes.leads:
            try:
                result = act()
            except (OSError, ValueError) as error:
                result = error
        result = self.processes.from_lead(result)
        if isinstance(result, Exception):
            raise result
        return result


def describe(
    learner: Learner,
    tasks: TaskDistribution,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None,
    **options: object,
) -> dict[str, str]:
    """What a run is, as text by name: two calls with equal descriptions and states take the same steps."""
    parts: dict[str, object] = {"tasks": tasks, "device of the tasks": tasks.device.type, **options}
    parts |= {"learner": type(learner), "optimizer": type(optimizer)}
    parts["scheduler"] = None if scheduler is None else type(scheduler)
    for name, module in learner.named_modules():
        parts |= _settings(f"learner {name}".strip(), vars(module), {"training"})
    parts |= _settings("optimizer", optimizer.defaults, set())
    parts |= _settings("scheduler", vars(scheduler) if scheduler is not None else {}, {"last_epoch", "T_i", "T_cur"})
    return {name: _text(part) for name, part in parts.items()}


def _settings(owner: str, attributes: dict[str, Any], changing: set[str]) -> dict[str, object]:
    """The public attributes that are numbers or words, or sequences of them."""
    return {
        f"{owner} {name}": value
        for name, value in attributes.items()
        if not name.startswith("_") and name not in changing
        if all(isinstance(v, Plain) for v in (value if isinstance(value, (list, tuple)) else [value]))
    }


def _text(part: object) -> str:
    if isinstance(part, type):
        return part.__name__
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(part))  # the address of an object without a repr of its own


def _read(path: Path) -> dict[str, Any] | None:
    checkpoint.remove_leftovers(path)
    return checkpoint.load(path) if path.exists() else None


def _device(learner: Learner) -> torch.device:
    return next(learner.parameters()).device
