"""Shared fixtures: tests that take `device` also run on a GPU if there is one; tests without their data are skipped."""

import os
import signal

import pytest
import torch

from metabook import data

os.environ["METABOOK_PROGRESS"] = "0"
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a job in the background; some tests press Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


@pytest.fixture(params=DEVICES)
def device(request) -> torch.device:
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def seeded():
    """Initial weights come from torch's global generator: the same ones in every run of a test."""
    torch.manual_seed(0)


@pytest.fixture
def omniglot():
    _need("omniglot")


@pytest.fixture
def mnist():
    _need("mnist")


def _need(name):
    if not data.available(name):
        pytest.skip(f"{name} is neither in METABOOK_DATA nor in the cache: python -m metabook.data fetch {name}")
