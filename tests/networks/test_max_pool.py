"""The closed pooling equals torch's, to second order and under vmap."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, vmap

from metabook.networks import max_pool


def draw(*shape, device="cpu"):
    return torch.randn(*shape, dtype=torch.float64, device=device)


@pytest.mark.parametrize("size", [(4, 4), (5, 7)])
@pytest.mark.parametrize("channels", [1, 3])
def test_equals_torch(size, channels, device):
    x = draw(2, channels, *size, device=device)
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.testing.assert_close(max_pool(x.contiguous(memory_format=layout)), F.max_pool2d(x, 2))


@pytest.mark.parametrize("size", [(4, 4), (5, 3)])
def test_first_and_second_derivatives(size):
    x = draw(2, 2, *size).requires_grad_()
    assert gradcheck(max_pool, (x,))
    assert gradgradcheck(lambda x: max_pool(x).pow(3), (x,))


@pytest.mark.parametrize("dim", [0, 2])
def test_vmap_of_second_derivatives_is_a_loop(dim, device):
    xs = draw(3, 2, 3, 6, 5, device=device).movedim(0, dim)

    def second_order(x):
        return grad(lambda x: grad(lambda x: max_pool(x).pow(3).sum())(x).pow(2).sum())(x)

    got = vmap(second_order, dim)(xs)
    for i in range(3):
        torch.testing.assert_close(got[i], second_order(xs.select(dim, i)))
