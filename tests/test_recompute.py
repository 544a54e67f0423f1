"""Computed again: the same gradient, in the memory of one step."""

import os
import subprocess
import sys

import pytest
import torch
from torch.autograd import gradcheck
from torch.func import vmap

from metabook.recompute import recomputed


def test_same_value_and_gradient_as_the_function_itself():
    def function(weights, data):
        return {"out": weights["a"].sin() * data, "sum": (weights["a"] * weights["b"]).sum()}

    a, b, data = (torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(3))

    def through(a, b, data):
        return tuple(recomputed(function, {"a": a, "b": b}, data).values())

    torch.testing.assert_close(through(a, b, data), tuple(function({"a": a, "b": b}, data).values()))
    assert gradcheck(through, (a, b, data))


def test_inputs_without_a_gradient_are_left_alone():
    x = torch.randn(4, requires_grad=True)
    labels = torch.tensor([0, 1, 1, 0])
    recomputed(lambda x, y: (x * y).sum(), x, labels).backward()
    torch.testing.assert_close(x.grad, labels.float())


def test_under_vmap_it_is_a_loop():
    xs = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    scale = torch.randn(2, dtype=torch.float64, requires_grad=True)
    together = vmap(lambda x: recomputed(lambda x, s: (x * s).cos(), x, scale))(xs)
    torch.testing.assert_close(together, (xs * scale).cos())
    got = torch.autograd.grad(together.sum(), (xs, scale))
    expected = torch.autograd.grad((xs * scale).cos().sum(), (xs, scale))
    torch.testing.assert_close(got, expected)


PEAK = """
import sys, torch
from metabook import MAML, Episode, Set
from metabook.networks import mlp
episode = Episode(*(Set(torch.randn(1, n, 2), torch.randn(1, n, 1)) for n in (20_000, 10)))
learner = MAML(mlp([2, 100, 1], torch.nn.Tanh), inner_steps=int(sys.argv[1]), recompute=sys.argv[2] == "True")
def largest():  # VmHWM, not getrusage: a child's ru_maxrss starts at the size of the process that forked it
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = largest()
learner.meta_loss(episode).backward()
print(largest() - before)
"""


def peak(steps: int, recompute: bool) -> int:
    command = [sys.executable, "-c", PEAK, str(steps), str(recompute)]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**18)}  # glibc gives back what is freed, at once
    return int(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_hardly_grows_with_the_number_of_inner_steps():
    """Activations of 20,000 examples, 8 MB each time, outweigh the 400 weights by far."""
    whole, again = (peak(10, recompute) - peak(2, recompute) for recompute in (False, True))
    assert again < 0.05 * whole
