"""Run a chapter from top to bottom in a fresh kernel of a given interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import ipykernel.kernelspec
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class OneInterpreter(KernelSpecManager):
    """Finds the kernel of one interpreter, whatever kernels the user has installed elsewhere."""

    interpreter = sys.executable

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """ipykernel's own specification, for this interpreter."""
        specification = ipykernel.kernelspec.get_kernel_dict()
        specification["argv"] = [self.interpreter, *specification["argv"][1:]]
        return KernelSpec(resource_dir=ipykernel.kernelspec.RESOURCES, **specification)


def kernel_environment(threads: int) -> dict[str, str]:
    """The variables of a kernel whose outputs are kept: no live progress bars, a given number of threads."""
    return {**os.environ, "METABOOK_PROGRESS": "0", **{name: str(threads) for name in THREAD_VARIABLES}}


def run(
    notebook: NotebookNode,
    folder: Path,
    *,
    environment: dict[str, str] | None = None,
    interpreter: str = sys.executable,
    timeout: float = 1800,
) -> float:
    """Execute every cell in place, with `folder` as working directory, and return the seconds it took.

    The start of the kernel does not count.  Outputs of an earlier run are dropped.

    Args:
        notebook: changed in place.
        folder: the kernel's working directory.
        environment: all variables of the kernel; `kernel_environment(threads=1)` if None.
        interpreter: the Python whose kernel runs the cells; ipykernel must be installed there.
        timeout: seconds for a cell.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised; the notebook holds the outputs up to there.
    """
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    kernels = OneInterpreter()
    kernels.interpreter = interpreter
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=kernels)
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, km=manager, timeout=timeout, record_timing=False, resources=resources)
    with client.setup_kernel(env=environment or kernel_environment(1), stderr=subprocess.DEVNULL):
        begin = time.perf_counter()
        for index, cell in enumerate(notebook.cells):
            client.execute_cell(cell, index)
        return time.perf_counter() - begin
