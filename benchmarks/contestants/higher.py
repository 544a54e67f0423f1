"""higher (E. Grefenstette et al., 2019): a monkey-patched module and a differentiable optimiser per task."""

from __future__ import annotations

from functools import partial

import higher
import torch

from benchmarks.contestants.loop import tasks_of
from benchmarks.workloads import loss


def maml(work, network, first_order=False):
    sgd = torch.optim.SGD(network.parameters(), lr=work.inner_lr)

    def accumulate(episode):
        for sx, sy, qx, qy in tasks_of(episode):
            context = higher.innerloop_ctx(network, sgd, copy_initial_weights=False, track_higher_grads=not first_order)
            with context as (adapted, inner):
                for _ in range(work.inner_steps):
                    inner.step(loss(adapted(sx), sy))
                query_loss = loss(adapted(qx), qy) / episode.tasks
                if not first_order:
                    query_loss.backward()
                    continue
                gradients = torch.autograd.grad(query_loss, list(adapted.parameters()))  # at the adapted weights
                for parameter, g in zip(network.parameters(), gradients, strict=True):
                    parameter.grad = g if parameter.grad is None else parameter.grad.add_(g)

    return accumulate


fomaml = partial(maml, first_order=True)


def anil(work, network):
    features, head = network[:-1], network[-1]
    sgd = torch.optim.SGD(head.parameters(), lr=work.inner_lr)

    def accumulate(episode):
        for sx, sy, qx, qy in tasks_of(episode):
            embedded = features(sx)
            with higher.innerloop_ctx(head, sgd, copy_initial_weights=False) as (adapted, inner):
                for _ in range(work.inner_steps):
                    inner.step(loss(adapted(embedded), sy))
                (loss(adapted(features(qx)), qy) / episode.tasks).backward()

    return accumulate
