"""One contestant at one workload, in a process of its own, so that allocators and peak memory do not mix.

The parent sends commands through a pipe and the worker answers each with ("ok", result), ("skip", reason) or
("error", traceback).
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import sys
import time
import traceback
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import steps
from benchmarks.contestants import Contestant
from benchmarks.workloads import EVALUATION, Workload, episodes
from metabook import Episode, Set
from metabook.memory import reuse_memory


def serve(pipe, contestant: Contestant, work: Workload, weights: dict, device: str, threads: int) -> None:
    """Answer the parent's commands until it says stop."""
    worker = None
    while True:
        try:
            message = pipe.recv()
        except EOFError:  # the parent is gone
            return
        if message is None:
            return
        command, *arguments = message
        try:
            worker = worker or Worker(contestant, work, weights, device, threads)
            pipe.send(("ok", getattr(worker, command)(*arguments)))
        except steps.Skip as reason:
            pipe.send(("skip", str(reason)))
        except Exception:
            pipe.send(("error", traceback.format_exc()))


class Worker:
    """The commands."""

    def __init__(self, contestant: Contestant, work: Workload, weights: dict, device: str, threads: int) -> None:
        limit_cores(threads)
        if contestant.reuse_memory and not reuse_memory():
            raise steps.Skip("the C library is not glibc")
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision("highest")
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        self.contestant, self.work, self.weights, self.device = contestant, work, weights, device
        self.contest = self.episodes = None

    def check(self, arrays: list) -> list:
        """What all must agree on, computed in float64 on the episode of `arrays`."""
        sx, sy, qx, qy = (torch.from_numpy(a).to(self.device) for a in arrays)
        contest = self._start(torch.float64)
        return contest.check(contest.prepare(Episode(Set(sx, sy), Set(qx, qy))))

    def warm_up(self, times: int = 2) -> None:
        """The first steps, in which memory is laid out and programs are compiled."""
        release_memory()
        self.episodes = episodes(self.work, self.device)
        self.contest = self._start(torch.float32)
        drawn = next(self.episodes)
        episode = self.contest.prepare(drawn.split(50)[0] if self.work.method == EVALUATION else drawn)
        self.before = self._memory()
        for _ in range(times):
            self.contest.step(episode)
        self._synchronise()
        self._forget_peak()

    def turn(self, seconds: float) -> dict:
        """Steps for about some seconds: seconds per step, per draw of an episode, and the peak memory so far, bytes."""
        spent = drawing = done = 0
        begin = time.perf_counter()
        while done == 0 or time.perf_counter() - begin < seconds:
            t0 = self._clock()
            drawn = next(self.episodes)
            t1 = self._clock()
            episode = self.contest.prepare(drawn)
            t2 = self._clock()
            self.contest.step(episode)
            t3 = self._clock()
            spent, drawing, done = spent + t3 - t2, drawing + t1 - t0, done + 1
        return {"step": spent / done, "draw": drawing / done, "steps": done, "memory": self._peak() - self.before}

    def operations(self) -> float:
        """Floating-point operations of one float32 step per task."""
        contest = self._start(torch.float32)
        episode = next(episodes(self.work, self.device)).split(1)[0]
        with FlopCounterMode(display=False) as counter:
            contest.step(contest.prepare(episode))
        return float(counter.get_total_flops())

    def _start(self, dtype):
        module = importlib.import_module(f"benchmarks.contestants.{self.contestant.module}")
        if hasattr(module, "start"):
            return module.start(self.work, self.weights, self.device, dtype, **self.contestant.options)
        return steps.start(module, self.work, self.weights, self.device, dtype, **self.contestant.options)

    def _synchronise(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def _clock(self) -> float:
        self._synchronise()
        return time.perf_counter()

    def _memory(self) -> int:
        return self._gpu_memory("bytes_in_use") if self.device == "cuda" else status("VmRSS")

    def _peak(self) -> int:
        return self._gpu_memory("peak_bytes_in_use") if self.device == "cuda" else status("VmHWM")

    def _gpu_memory(self, what: str) -> int:
        if self.contestant.module == "jax":
            return sys.modules["jax"].devices()[0].memory_stats()[what]
        read = {"bytes_in_use": "memory_reserved", "peak_bytes_in_use": "max_memory_reserved"}[what]  # graphs included
        return getattr(torch.cuda, read)()

    def _forget_peak(self) -> None:
        if self.device == "cuda" and self.contestant.module != "jax":
            torch.cuda.reset_peak_memory_stats()
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            pass  # the peak is then that of the whole life of the process


def limit_cores(threads: int) -> None:
    """Keep this process on some of its cores, which binds every library alike."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[:threads])
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"


def release_memory() -> None:
    """Give freed memory back to the system, so that what comes next is measured from below."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def status(field: str) -> int:
    """A line of /proc/self/status in bytes; where there is none, the largest size that the process ever had."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))
