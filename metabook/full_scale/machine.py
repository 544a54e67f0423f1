"""Where a run was made, and by which versions."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import torch

import metabook


def describe_machine(device: str, mode: str = "eager", precision: str = "float32") -> dict:
    """Device, threads and versions, for the file of a run; a checkout is named by its commit as well.

    Args:
        device: "cpu", or "cuda" with or without a number.
        mode, precision: as in `meta_train`.
    """
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else f"CPU, {platform.machine()}",
        "threads": torch.get_num_threads(),
        "mode": mode,
        "precision": precision,
        "metabook": f"{metabook.__version__} {commit}".strip(),
        "torch": torch.__version__.split("+")[0],
        "python": platform.python_version(),
    }
