"""`python -m benchmarks.gpu_step`: what a meta-step on a GPU is made of, by PyTorch's profiler.

For each mode: kernels and graphs that the host launches, copies from and to the host, and how often the host waits for
the GPU, in steps of drawing a batch, meta-gradient and Adam; and what drawing adds to the time of a step.  The steps
also run where PyTorch raises an error when an operation waits (`torch.cuda.set_sync_debug_mode`).
"""

from __future__ import annotations

import argparse
import datetime
import shlex
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks import machine, report
from benchmarks.workloads import Workload, distribution, initial_weights, load
from metabook import MAML
from metabook.gradient import meta_gradient
from metabook.networks import conv4

WORK = Workload("Conv4 MAML, 1 inner step, 32 tasks", "maml", "conv4", tasks=32, inner_steps=1)
VARIANTS = [("eager", "float32"), ("traced", "float32"), ("traced", "tf32"), ("traced", "bfloat16")]
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx", "cudaGraphLaunch")


class Step:
    """Draw, differentiate, update; without `fresh`, the batch that was drawn first, over and over."""

    def __init__(self, mode: str, precision: str) -> None:
        network = load(conv4(outputs=WORK.ways), initial_weights(WORK), "cuda", torch.float32)
        self.accumulate = meta_gradient(MAML(network, WORK.inner_lr, WORK.inner_steps), mode=mode, precision=precision)
        self.optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
        self.tasks = distribution(WORK, "cuda")
        self.generator = self.tasks.generator(0)
        self.first = self.tasks.sample(WORK.tasks, self.generator)

    def __call__(self, fresh: bool = True) -> None:
        episode = self.tasks.sample(WORK.tasks, self.generator) if fresh else self.first
        self.optimizer.zero_grad()
        self.accumulate(episode)
        self.optimizer.step()


def counted(step: Step, steps: int) -> dict:
    """Calls per step, and the time of its kernels."""
    nothing, events = watched(lambda: None), watched(lambda: [step() for _ in range(steps)])
    calls = Counter(event.name for event in events)
    calls.subtract(event.name for event in nothing)  # the profiler waits, too
    longest: Counter = Counter()
    for event in events:
        if event.device_type == DeviceType.CUDA:
            longest[event.name[:100]] += event.self_device_time_total * 1e-3 / steps
    return {
        "launches": sum(calls[name] for name in LAUNCHES) / steps,
        "graphs": calls["cudaGraphLaunch"] / steps,
        "copies to the GPU": sum(n for name, n in calls.items() if name.startswith("Memcpy HtoD")) / steps,
        "copies to the host": sum(n for name, n in calls.items() if name.startswith("Memcpy DtoH")) / steps,
        "waits": {name: calls[name] for name in WAITS if calls[name] > 0},
        "kernels, ms": longest.total(),
        "longest kernels, ms": dict(longest.most_common(8)),
    }


def watched(run: Callable[[], object]) -> list:
    """The profiler's events."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    return profiler.events()


def seconds_per_step(step: Step, fresh: bool, steps: int) -> float:
    """Without a wait between the steps."""
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(steps):
        step(fresh)
    torch.cuda.synchronize()
    return (time.perf_counter() - begin) / steps


def drawing(step: Step, steps: int, rounds: int) -> dict:
    """What drawing adds to a step: steps with a fresh batch and with an old one, in turns; medians."""
    fresh, old = [], []
    for _ in range(rounds):
        fresh.append(seconds_per_step(step, True, steps))
        old.append(seconds_per_step(step, False, steps))
    shares = [(a - b) / a for a, b in zip(fresh, old, strict=True)]
    return {"fresh": statistics.median(fresh), "old": statistics.median(old), "share": statistics.median(shares)}


def main(arguments: list[str] | None = None) -> int:
    """Run it, print what was found, and write it if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_step", description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("there is no GPU here", file=sys.stderr)
        return 2
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    results = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(
            ["python", "-m", "benchmarks.gpu_step", *(sys.argv[1:] if arguments is None else arguments)]
        ),
        "machine": machine.describe("cuda", torch.get_num_threads()),
        "workload": WORK.name,
        "rows": [],
    }
    for mode, precision in VARIANTS:
        step = Step(mode, precision)
        for _ in range(3):
            step()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        for _ in range(options.steps):
            step()
        torch.cuda.set_sync_debug_mode("default")
        row = {"mode": mode, "precision": precision, **counted(step, 3)}
        row["drawing"] = drawing(step, options.steps, options.rounds)
        results["rows"].append(row)
        print(f"{mode}, {precision}:", *(f"  {name}: {value}" for name, value in row.items()), sep="\n", flush=True)
        if options.json:
            report.write(options.json, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
