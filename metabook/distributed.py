"""One run on several processes, as `torchrun` starts them: a thin layer on `torch.distributed`.

Every process draws the same batch of tasks and differentiates its share of it.  The sum of the gradients is the
gradient of the whole batch, so all take the same step and their weights stay equal bit for bit.  A process that
works alone has nobody to send to, and every method returns at once.
"""

from __future__ import annotations

import atexit
import math
import os
import socket
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from metabook.episode import Episode, Set

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """The processes of one run, seen from one of them.  Apart from `share`, all must call a method, or none.

    rank: number of this process, from 0.
    size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: torch.device) -> Processes:
        """The group of this process: the one that stands, else the one of its `torchrun`, else itself alone.

        Args:
            device: of the learner.  CUDA tensors are sent by nccl, and all others and objects by gloo.

        Raises:
            ValueError: two processes would send from one GPU, or the group that stands cannot send from the CPU.
        """
        if not (dist.is_available() and dist.is_initialized()):
            if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", 1)) == 1:
                return cls()
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, timeout=timedelta(minutes=30))  # torchrun notices a failure at once
            atexit.register(_leave)
        processes = cls(dist.get_rank(), dist.get_world_size())
        processes._check_backend(device)
        return processes

    def _check_backend(self, device: torch.device) -> None:
        backend = dist.get_backend_config()
        if "cpu:" not in backend:
            raise ValueError(f'the process group is {backend}; make it with init_process_group("cpu:gloo,cuda:nccl")')
        if device.type == "cuda" and "cuda:nccl" in backend:
            index = torch.cuda.current_device() if device.index is None else device.index
            gpus = self.gather((socket.gethostname(), os.environ.get("CUDA_VISIBLE_DEVICES"), index))
            if len(set(gpus)) < len(gpus):
                raise ValueError(
                    f"{len(gpus)} processes share GPUs (machine, visible, index): {gpus}; take one for each, with "
                    'torch.cuda.set_device(int(os.environ["LOCAL_RANK"])) before the learner is made'
                )

    @property
    def leads(self) -> bool:
        """Whether this process is the one that shows the progress and writes the files."""
        return self.rank == 0

    def share(self, episode: Episode) -> Episode | None:
        """Consecutive tasks of the batch for this process; the sizes of all shares differ by one at most.

        Returns:
            A batch of at least one task, or None where the processes outnumber the tasks.  Process 0 has a share.
        """
        start, end = (math.ceil(episode.tasks * rank / self.size) for rank in (self.rank, self.rank + 1))
        return Episode(*(Set(*(t[start:end] for t in part)) for part in episode)) if end > start else None

    @torch.no_grad()
    def copy_from_lead(self, learner: nn.Module) -> None:
        """Give every process the parameters and buffers of process 0.

        Raises:
            ValueError: the learners differ in the names, shapes or dtypes of their tensors; every process says so.
        """
        if self.size == 1:
            return
        tensors = dict([*learner.named_parameters(), *learner.named_buffers()])
        self.check_equal("tensors of the learner", {name: (*t.shape, t.dtype) for name, t in tensors.items()})
        _in_buckets(tensors.values(), lambda flat: dist.broadcast(flat, src=0))

    @torch.no_grad()
    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Replace every tensor by its sum over processes, with one message for each device and dtype.

        The tensors have the same shapes on all processes, in the same order.  All receive the same bits.
        """
        if self.size > 1:
            _in_buckets(tensors, dist.all_reduce)

    def from_lead(self, value: T) -> T:
        """The object of process 0, on every process.  Its tensors belong on the CPU; it is sent by pickle."""
        if self.size == 1:
            return value
        received = [value if self.leads else None]
        dist.broadcast_object_list(received, src=0)
        return received[0]

    def gather(self, value: T) -> list[T]:
        """The objects of all processes in the order of their ranks, on every process; see `from_lead`."""
        if self.size == 1:
            return [value]
        received = [None] * self.size
        dist.all_gather_object(received, value)
        return received

    def check_equal(self, what: str, values: dict[str, object]) -> None:
        """Raise `ValueError` on every process unless all have equal values; it names those that differ."""
        lead, *others = self.gather(values)
        for rank, other in enumerate(others, 1):
            if other != lead:
                names = [name for name in {**lead, **other} if lead.get(name) != other.get(name)]
                met = "; ".join(f"{name} is {lead.get(name)} on 0 and {other.get(name)} on {rank}" for name in names)
                raise ValueError(f"{what} must be the same on all processes, but {met}")


def _in_buckets(tensors: Iterable[Tensor], communicate: Callable[[Tensor], object]) -> None:
    buckets = defaultdict(list)
    for tensor in tensors:
        buckets[tensor.device, tensor.dtype].append(tensor)
    for bucket in buckets.values():
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
        communicate(flat)
        for tensor, part in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
            tensor.copy_(part.view(tensor.shape))


def _leave() -> None:
    """Destroy the group, except on the way out of an error: with nccl that would wait for the other processes."""
    if dist.is_initialized() and getattr(sys, "last_value", None) is None:
        dist.destroy_process_group()
