"""TorchOpt (J. Ren et al., 2023): a differentiable optimiser on the module itself, whose state is put back per task.

Its inner step always builds the graph of the second derivative, so it has no first-order MAML to time.
"""

from __future__ import annotations

import torchopt

from benchmarks.contestants.loop import tasks_of
from benchmarks.workloads import loss


def maml(work, network):
    inner = torchopt.MetaSGD(network, lr=work.inner_lr)

    def accumulate(episode):
        start, start_of_inner = (torchopt.extract_state_dict(part, by="reference") for part in (network, inner))
        for sx, sy, qx, qy in tasks_of(episode):
            for _ in range(work.inner_steps):
                inner.step(loss(network(sx), sy))
            (loss(network(qx), qy) / episode.tasks).backward()
            torchopt.recover_state_dict(network, start)
            torchopt.recover_state_dict(inner, start_of_inner)

    return accumulate


def anil(work, network):
    features, head = network[:-1], network[-1]
    inner = torchopt.MetaSGD(head, lr=work.inner_lr)

    def accumulate(episode):
        start, start_of_inner = (torchopt.extract_state_dict(part, by="reference") for part in (head, inner))
        for sx, sy, qx, qy in tasks_of(episode):
            embedded = features(sx)
            for _ in range(work.inner_steps):
                inner.step(loss(head(embedded), sy))
            (loss(head(features(qx)), qy) / episode.tasks).backward()
            torchopt.recover_state_dict(head, start)
            torchopt.recover_state_dict(inner, start_of_inner)

    return accumulate
