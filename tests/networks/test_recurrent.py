"""The step of the long short-term memory against PyTorch's, and under vmap."""

import torch
from torch import nn
from torch.func import vmap

from metabook.networks.recurrent import LSTMCell


def doubles(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def test_the_step_and_its_gradients_are_those_of_pytorch():
    ours, theirs = LSTMCell(3, 4).double(), nn.LSTMCell(3, 4).double()
    theirs.load_state_dict(ours.state_dict())
    x, state = doubles(5, 3), (doubles(5, 4), doubles(5, 4))
    for a, b in zip(ours(x, state), theirs(x, state), strict=True):
        torch.testing.assert_close(a, b)
    slopes = [torch.autograd.grad(cell(x, state)[0].square().sum(), list(cell.parameters())) for cell in (ours, theirs)]
    for a, b in zip(*slopes, strict=True):
        torch.testing.assert_close(a, b)


def test_a_batch_of_tasks_is_each_task_on_its_own():
    cell, x, state = LSTMCell(3, 4).double(), doubles(2, 5, 3), (doubles(2, 5, 4), doubles(2, 5, 4))
    together = vmap(cell)(x, state)
    for task in range(2):
        alone = cell(x[task], (state[0][task], state[1][task]))
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[task], b)


def test_an_open_forget_gate_keeps_the_cell():
    cell = LSTMCell(2, 3).double()
    with torch.no_grad():
        for p in cell.parameters():
            p.zero_()
        cell.bias_ih[:3] = -50.0  # nothing is written
        cell.bias_ih[3:6] = 50.0  # everything is kept
    kept = doubles(1, 3)
    _, after = cell(doubles(1, 2), (doubles(1, 3), kept))
    torch.testing.assert_close(after, kept)
