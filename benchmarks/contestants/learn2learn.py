"""learn2learn (S. M. R. Arnold et al., 2020): a clone of the module per task, adapted in place."""

from __future__ import annotations

from functools import partial

import learn2learn
import torch
from torch.utils.data import TensorDataset

from benchmarks.contestants.loop import score, tasks_of
from benchmarks.workloads import loss


def maml(work, network, first_order=False):
    learner = learn2learn.algorithms.MAML(network, lr=work.inner_lr, first_order=first_order)

    def accumulate(episode):
        for sx, sy, qx, qy in tasks_of(episode):
            adapted = learner.clone()
            for _ in range(work.inner_steps):
                adapted.adapt(loss(adapted(sx), sy))
            (loss(adapted(qx), qy) / episode.tasks).backward()

    return accumulate


fomaml = partial(maml, first_order=True)


def anil(work, network):
    features, head = network[:-1], learn2learn.algorithms.MAML(network[-1], lr=work.inner_lr)

    def accumulate(episode):
        for sx, sy, qx, qy in tasks_of(episode):
            embedded, adapted = features(sx), head.clone()
            for _ in range(work.inner_steps):
                adapted.adapt(loss(adapted(embedded), sy))
            (loss(adapted(features(qx)), qy) / episode.tasks).backward()

    return accumulate


def protonet(work, network):
    classifier = learn2learn.nn.PrototypicalClassifier()

    def accumulate(episode):
        for sx, sy, qx, qy in tasks_of(episode):
            classifier.fit_(network(sx), sy)
            (loss(classifier(network(qx)), qy) / episode.tasks).backward()

    return accumulate


def evaluation(work, network):
    learner = learn2learn.algorithms.MAML(network, lr=work.inner_lr, first_order=True)

    def scores(episode):
        results = []
        for sx, sy, qx, qy in tasks_of(episode):
            adapted = learner.clone()
            for _ in range(work.inner_steps):
                adapted.adapt(loss(adapted(sx), sy))
            with torch.no_grad():
                results.append(score(adapted(qx), qy))
        return torch.stack(results)

    return scores


def sampling(work, tasks):
    """Its task sets for images; it has none for functions."""
    if work.network != "conv4":
        return None
    images = tasks.images.view(-1, *tasks.shape)
    labels = torch.arange(work.classes).repeat_interleave(20)
    dataset = learn2learn.data.MetaDataset(TensorDataset(images, labels))
    transforms = learn2learn.data.transforms
    taskset = learn2learn.data.Taskset(
        dataset,
        [
            transforms.FusedNWaysKShots(dataset, n=work.ways, k=work.shots + work.queries),
            transforms.LoadData(dataset),
            transforms.RemapLabels(dataset),
            transforms.ConsecutiveLabels(dataset),
        ],
    )

    def draw():
        batch = []
        for _ in range(work.tasks):
            x, y = taskset.sample()
            x, y = x.view(work.ways, -1, *tasks.shape).float() / 255, y.view(work.ways, -1)
            batch.append([part.flatten(0, 1) for half in (slice(work.shots), slice(work.shots, None))
                          for part in (x[:, half], y[:, half])])  # fmt: skip
        return tuple(torch.stack(column).to(tasks.device) for column in zip(*batch, strict=True))

    return draw
