"""Convolution as matrix products equals the backend's, and so do its two gradients."""

import pytest
import torch
import torch.nn.functional as F

from metabook.networks import patches


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("shape", [(1, 8, 9, 3, 5), (4, 6, 7, 4, 3), (4, 6, 5, 1, 2)])
def test_it_equals_the_backend(shape, padding, device):
    inputs, outputs, size, groups, n = shape
    make = dict(dtype=torch.float64, device=device)
    x = torch.randn(n, groups * inputs, size, size, **make).requires_grad_()
    weight = torch.randn(groups * outputs, inputs, 3, 3, **make).requires_grad_()
    expected = F.conv2d(x, weight, padding=padding, groups=groups)
    y = patches.convolve(x, weight, padding, groups)
    torch.testing.assert_close(y, expected)
    assert y.is_contiguous(memory_format=torch.channels_last)
    g = torch.randn_like(expected)
    gx, gw = torch.autograd.grad(expected, (x, weight), g)
    torch.testing.assert_close(patches.to_input(g, weight, padding, groups), gx)
    torch.testing.assert_close(patches.to_weight(x, g, 3, padding, groups), gw)
