"""The naive loop, as tutorials write it: one task after the other, `torch.autograd.grad` with `create_graph`."""

from __future__ import annotations

import copy
from functools import partial

import torch
import torch.nn.functional as F
from torch.func import functional_call

from benchmarks.workloads import loss


def tasks_of(episode):
    """Support inputs and targets, query inputs and targets, task by task."""
    (sx, sy), (qx, qy) = episode
    return zip(sx, sy, qx, qy, strict=True)


def maml(work, network, first_order=False):
    def accumulate(episode):
        for sx, sy, qx, qy in tasks_of(episode):
            weights = dict(network.named_parameters())
            for _ in range(work.inner_steps):
                support_loss = loss(functional_call(network, weights, (sx,)), sy)
                gradients = torch.autograd.grad(support_loss, list(weights.values()), create_graph=not first_order)
                weights = {n: w - work.inner_lr * g for (n, w), g in zip(weights.items(), gradients, strict=True)}
            query_loss = loss(functional_call(network, weights, (qx,)), qy)
            (query_loss / episode.tasks).backward()

    return accumulate


fomaml = partial(maml, first_order=True)


def anil(work, network):
    features, head = network[:-1], network[-1]

    def accumulate(episode):
        for sx, sy, qx, qy in tasks_of(episode):
            embedded, weights = features(sx), dict(head.named_parameters())
            for _ in range(work.inner_steps):
                support_loss = loss(functional_call(head, weights, (embedded,)), sy)
                gradients = torch.autograd.grad(support_loss, list(weights.values()), create_graph=True)
                weights = {n: w - work.inner_lr * g for (n, w), g in zip(weights.items(), gradients, strict=True)}
            query_loss = loss(functional_call(head, weights, (features(qx),)), qy)
            (query_loss / episode.tasks).backward()

    return accumulate


def reptile(work, network):
    def accumulate(episode):
        for sx, sy, qx, qy in tasks_of(episode):
            adapted = copy.deepcopy(network)
            sgd = torch.optim.SGD(adapted.parameters(), lr=work.inner_lr)
            for _ in range(work.inner_steps):
                sgd.zero_grad()
                loss(adapted(torch.cat([sx, qx])), torch.cat([sy, qy])).backward()
                sgd.step()
            for theta, phi in zip(network.parameters(), adapted.parameters(), strict=True):
                difference = (theta.detach() - phi.detach()) / episode.tasks
                theta.grad = difference if theta.grad is None else theta.grad.add_(difference)

    return accumulate


def protonet(work, network):
    def accumulate(episode):
        for sx, sy, qx, qy in tasks_of(episode):
            embedded = network(sx)
            centres = torch.stack([embedded[sy == way].mean(0) for way in range(work.ways)])
            logits = -(network(qx)[:, None] - centres).square().sum(-1)
            (loss(logits, qy) / episode.tasks).backward()

    return accumulate


def cnp(work, network):
    """Neural processes are batched over tasks by everybody: here too, there is no loop."""

    def accumulate(episode):
        support, query = episode
        r = network["encoder"](torch.cat([support.x, support.y], -1)).mean(1, keepdim=True)
        x, y = torch.cat([support.x, query.x], 1), torch.cat([support.y, query.y], 1)
        mean, raw = network["decoder"](torch.cat([x, r.expand(-1, x.shape[1], -1)], -1)).chunk(2, dim=-1)
        std = 0.1 + 0.9 * F.softplus(raw)
        (-torch.distributions.Normal(mean, std).log_prob(y).mean()).backward()

    return accumulate


def evaluation(work, network):
    def scores(episode):
        losses = []
        for sx, sy, qx, qy in tasks_of(episode):
            weights = dict(network.named_parameters())
            for _ in range(work.inner_steps):
                support_loss = loss(functional_call(network, weights, (sx,)), sy)
                gradients = torch.autograd.grad(support_loss, list(weights.values()))
                weights = {n: (w - work.inner_lr * g).detach().requires_grad_()
                           for (n, w), g in zip(weights.items(), gradients, strict=True)}  # fmt: skip
            with torch.no_grad():
                losses.append(score(functional_call(network, weights, (qx,)), qy))
        return torch.stack(losses)

    return scores


def score(prediction, y):
    """Accuracy of one task, or its squared error."""
    return F.mse_loss(prediction, y) if y.is_floating_point() else (prediction.argmax(-1) == y).float().mean()


def sampling(work, tasks):
    """Task by task and class by class, with the tensors of the data set already in memory."""
    return partial(_images if work.network == "conv4" else _waves, work, tasks)


def _waves(work, tasks):
    batch = []
    for _ in range(work.tasks):
        amplitude, phase = torch.empty(()).uniform_(0.1, 5.0), torch.empty(()).uniform_(0.0, torch.pi)
        x = torch.empty(work.shots + work.queries, 1).uniform_(-5.0, 5.0)
        y = amplitude * torch.sin(x - phase)
        batch.append((x[: work.shots], y[: work.shots], x[work.shots :], y[work.shots :]))
    return tuple(torch.stack(column).to(tasks.device) for column in zip(*batch, strict=True))


def _images(work, tasks):
    batch = []
    for _ in range(work.tasks):
        sx, sy, qx, qy = [], [], [], []
        for label, chosen in enumerate(torch.randperm(work.classes)[: work.ways]):
            numbers = 20 * chosen + torch.randperm(20)[: work.shots + work.queries].to(tasks.device)
            images = tasks.images[numbers].view(-1, *tasks.shape).float() / 255
            sx.append(images[: work.shots])
            qx.append(images[work.shots :])
            sy.append(torch.full((work.shots,), label))
            qy.append(torch.full((work.queries,), label))
        batch.append(tuple(torch.cat(part) for part in (sx, sy, qx, qy)))
    return tuple(torch.stack(column).to(tasks.device) for column in zip(*batch, strict=True))
