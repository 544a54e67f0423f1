"""The memory of the process."""

from __future__ import annotations

import ctypes
import sys


def reuse_memory() -> bool:
    """Let the C library keep the memory that tensors free, for the tensors of the next step.

    By default glibc gives large blocks back to the system at once, and every meta-step pays for 100,000 page faults to
    get them again; kept, a step with convolutions on a CPU takes about two thirds of the time.  The process then holds
    on to the largest amount that it ever needed.

    Call it once, before training on a CPU.  It changes the whole process, so nothing in the library calls it by itself.

    Returns:
        Whether the C library is glibc and took the setting; elsewhere nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    trim_threshold, mmap_threshold, largest = -1, -3, 2**31 - 1  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of <malloc.h>
    return bool(mallopt(trim_threshold, largest)) and bool(mallopt(mmap_threshold, largest))
