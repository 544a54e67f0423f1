"""Shared fixtures: every test that takes `device` also runs on a GPU where there is one."""

import os

import pytest
import torch

os.environ["METABOOK_PROGRESS"] = "0"

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


@pytest.fixture(params=DEVICES)
def device(request) -> torch.device:
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def seeded():
    """Initial weights come from torch's global generator: the same ones in every run of a test."""
    torch.manual_seed(0)
