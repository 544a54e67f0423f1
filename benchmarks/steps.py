"""What one step is: the same for every contestant, whatever the method.

Steps have three methods.  `prepare(episode)` is not on the clock; `step(episode)` is; `check(episode)` returns, as a
list of arrays, what all contestants must agree on: the meta-gradient, or the score of every task, or the shapes.
"""

from __future__ import annotations

from types import ModuleType
from typing import Protocol

import numpy as np
import torch

from benchmarks.workloads import EVALUATION, SAMPLING, Workload, distribution, load, plain_network


class Skip(Exception):
    """This contestant does not do this workload, and why."""


class Steps(Protocol):
    """What a worker asks of a contestant."""

    def prepare(self, episode): ...
    def check(self, episode) -> list[np.ndarray]: ...
    def step(self, episode) -> None: ...


def start(
    module: ModuleType, work: Workload, weights: dict[str, np.ndarray], device: str, dtype: torch.dtype, **options
) -> Steps:
    """The steps of a contestant that is written in PyTorch.

    Args:
        module: of the contestant.
        work: the row.
        weights: where to start.
        device: "cpu" or "cuda".
        dtype: of weights and inputs.
        options: passed to the function of the method.

    Raises:
        Skip: the contestant does not do this, and why.
    """
    method = getattr(module, work.method, None)
    if method is None or (options and not work.trains):
        raise Skip("has none")
    if work.method == SAMPLING:
        return Sampling(method(work, distribution(work, device)))
    network = load(getattr(module, "network", plain_network)(work), weights, device, dtype)
    run = method(work, network, **options)
    return Evaluation(run) if work.method == EVALUATION else Training(network, run)


class Training:
    """The meta-gradient of a fresh episode, then Adam."""

    def __init__(self, network, accumulate):
        self.network, self.accumulate = network, accumulate
        self.optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)

    def prepare(self, episode):
        return episode

    def check(self, episode):
        self.optimizer.zero_grad()
        self.accumulate(episode)
        return [p.grad.cpu().numpy() for p in self.network.parameters()]

    def step(self, episode):
        self.optimizer.zero_grad()
        self.accumulate(episode)
        self.optimizer.step()


class Evaluation:
    """The score of every task of an episode."""

    def __init__(self, scores):
        self.scores = scores

    def prepare(self, episode):
        return episode

    def check(self, episode):
        return [self.scores(episode).cpu().numpy()]

    def step(self, episode):
        self.scores(episode).cpu()


class Sampling:
    """Drawing a batch of episodes; what is random cannot agree, so the shapes must."""

    def __init__(self, draw):
        if draw is None:
            raise Skip("has none")
        self.draw = draw

    def prepare(self, episode):
        return None

    def check(self, episode):
        drawn = self.draw()
        parts = [t for part in drawn for t in (part if isinstance(part, tuple) else (part,))]
        return [np.array(t.shape, dtype=float) for t in parts]

    def step(self, episode):
        self.draw()
