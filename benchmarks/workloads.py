"""What is timed: each workload is a row of the table.

A workload says what is computed (the method, the network, the sizes), where its episodes come from, and where the
weights start; every contestant gets the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.networks import cnp, conv4, mlp
from metabook import Episode
from metabook.data.dataset import Dataset
from metabook.tasks import FewShot, Sinusoids, TaskDistribution

EVALUATION, SAMPLING = "evaluation", "sampling"  # methods that do not train; all others do


@dataclass(frozen=True)
class Workload:
    """One row.

    name: how the table calls it.
    method: the function of a contestant's module that computes it.
    network: "mlp", "conv4" (without the last layer for ProtoNet) or "cnp".
    tasks: tasks or episodes per step.
    inner_steps, inner_lr: of the inner loop, where there is one.
    ways, shots, queries: per task; for images, `shots` and `queries` are per class.
    width, image_size: of Conv4 and its images.
    classes: how many the data set of images has, 20 images each, as Omniglot.
    chunk: tasks that metabook differentiates at a time; None is all of them.
    device: "cuda" for a row that would take too long on a CPU.
    """

    name: str
    method: str
    network: str
    tasks: int
    inner_steps: int = 5
    inner_lr: float = 0.01
    ways: int = 5
    shots: int = 1
    queries: int = 15
    width: int = 64
    image_size: int = 28
    classes: int = 1623
    chunk: int | None = None
    device: str | None = None

    @property
    def trains(self) -> bool:
        """Whether a step is a meta-gradient and an update."""
        return self.method not in (EVALUATION, SAMPLING)


def _workloads() -> list[Workload]:
    sinusoid = Workload("", "maml", "mlp", 0, shots=10, queries=10)
    images = Workload("", "maml", "conv4", 0)
    rows = [replace(sinusoid, name=f"sinusoid MAML, {n} tasks", tasks=n) for n in (25, 100, 1000)]
    for name, method in (("MAML", "maml"), ("FOMAML", "fomaml"), ("ANIL", "anil")):
        rows += [
            replace(images, name=f"Conv4 {name}, {s} inner step{'s'[: s - 1]}, {n} tasks", method=method, tasks=n,
                    inner_steps=s)
            for s in (1, 5) for n in (4, 16, 32)
        ]  # fmt: skip
    rows += [replace(images, name=f"Conv4 Reptile, 5 inner steps, {n} tasks", method="reptile", tasks=n)
             for n in (4, 16, 32)]  # fmt: skip
    rows += [
        replace(images, name=f"Conv4 ProtoNet, {ways}-way 5-shot, {n} episodes", method="protonet", tasks=n, ways=ways,
                shots=5, queries=queries)
        for ways, queries in ((5, 15), (20, 5)) for n in (4, 16, 32)
    ]  # fmt: skip
    rows = [replace(row, device="cuda") if row.tasks == 32 else row for row in rows]
    rows += [Workload("CNP, 64 tasks", "cnp", "cnp", 64, shots=0, queries=0)]
    rows += [
        replace(sinusoid, name="sampling sinusoids, 25 tasks", method=SAMPLING, tasks=25),
        replace(images, name="sampling 5-way 1-shot, 16 tasks", method=SAMPLING, tasks=16),
        replace(sinusoid, name="evaluation of 600 tasks, sinusoid MAML", method=EVALUATION, tasks=600),
        replace(images, name="evaluation of 600 tasks, Conv4 MAML", method=EVALUATION, tasks=600),
    ]
    return rows


WORKLOADS = _workloads()


def plain_network(work: Workload) -> nn.Module:
    """The network as a user of plain PyTorch writes it; metabook's own has the same parameters in the same order."""
    if work.network == "mlp":
        return mlp([1, 40, 40, 1])
    if work.network == "cnp":
        return cnp()
    return conv4(work.width, None if work.method == "protonet" else work.ways)


def initial_weights(work: Workload, seed: int = 0) -> dict[str, np.ndarray]:
    """Where every contestant starts: float64, by name, in the order of the network's parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {name: p.detach().double().numpy() for name, p in plain_network(work).named_parameters()}


def load(network: nn.Module, weights: dict[str, np.ndarray], device: str, dtype: torch.dtype) -> nn.Module:
    """Give a network the initial weights, parameter by parameter in order."""
    network = network.to(device, dtype)
    with torch.no_grad():
        for parameter, value in zip(network.parameters(), weights.values(), strict=True):
            if parameter.shape != value.shape:
                raise ValueError(f"a parameter has shape {tuple(parameter.shape)}, its initial weights {value.shape}")
            parameter.copy_(torch.from_numpy(value))
    return network


def loss(prediction: Tensor, y: Tensor) -> Tensor:
    """Squared error for values, cross-entropy for classes: the mean over examples."""
    return F.mse_loss(prediction, y) if y.is_floating_point() else F.cross_entropy(prediction, y)


def distribution(work: Workload, device: str = "cpu") -> TaskDistribution:
    """Where the episodes of a workload come from.  Images are random bytes: speed does not depend on them."""
    if work.network == "mlp":
        return Sinusoids(work.shots, work.queries, device=device)
    options = dict(ways=work.ways, shots=work.shots, queries=work.queries, device=device)
    return FewShot(random_images(work.classes, work.image_size), **options)


def episodes(work: Workload, device: str = "cpu", seed: int = 0) -> Iterator[Episode]:
    """Fresh episodes without end, the same for every contestant."""
    if work.network == "cnp":  # 50 points of a wave, of which a random number of 3 to 47 is observed
        generator = torch.Generator().manual_seed(seed)
        while True:
            observed = int(torch.randint(3, 48, (), generator=generator))
            waves = Sinusoids(observed, 50 - observed, device=device)
            yield waves.sample(work.tasks, waves.generator(int(torch.randint(2**31, (), generator=generator))))
    tasks = distribution(work, device)
    generator = tasks.generator(seed)
    while True:
        yield tasks.sample(work.tasks, generator)


def random_images(classes: int, size: int) -> Dataset:
    """A data set of the size of Omniglot, 1623 classes of 20 images, made of random bytes."""
    generator = torch.Generator().manual_seed(0)
    return Dataset(
        images=torch.randint(0, 256, (classes * 20, 1, size, size), generator=generator, dtype=torch.uint8),
        labels=torch.arange(classes).repeat_interleave(20),
        groups=torch.zeros(classes, dtype=torch.int64),
        class_names=tuple(f"class {c}" for c in range(classes)),
        group_names=("all",),
        name="random bytes",
    )
