"""The machine: what it is, and the most that it can do."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = ("torch", "numpy", "higher", "torchopt", "learn2learn", "jax", "jaxlib", "metabook-learning")


def describe(device: str, threads: int) -> dict:
    """Processor, cores, memory, GPU and the versions of everything."""
    return {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def matrix_peak(device: str, threads: int, seconds: float = 2.0) -> float:
    """Floating-point operations per second of the fastest of many float32 matrix products."""
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    size = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    fastest, begin = float("inf"), time.perf_counter()
    while time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * size**3 / fastest


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
