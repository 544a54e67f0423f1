"""Memory that the C library keeps."""

import platform
import subprocess
import sys

import pytest

from metabook import reuse_memory

FAULTS = """
import resource, torch
from metabook import reuse_memory
{call}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(16_000_000).add_(1)  # 64 MB, a page fault for each 4 kB where it comes from the system
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


def page_faults(call: str) -> int:
    command = [sys.executable, "-c", FAULTS.format(call=call)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_kept_memory_is_not_fetched_from_the_system_again():
    """One block in twenty may still be new, where something small came to lie in the place of the last."""
    assert page_faults("reuse_memory()") < 0.1 * page_faults("")


def test_elsewhere_it_does_nothing_and_says_so(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert reuse_memory() is False
