"""Grouped convolution as matrix products: what a GPU is given, where tasks are groups of channels.

On a CPU the backend's grouped convolution is as fast as a matrix product.  A GPU's libraries were made for few groups;
there it is faster to write down the patch around every pixel and to multiply by the weights of all tasks at once,

    patches(x) (tasks, n h w, k k in) @ weights (tasks, k k in, out) = y (tasks, n h w, out),

though each pixel is written k * k times.  The two gradients are products of the same matrices.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def convolve(x: Tensor, weight: Tensor, padding: int, groups: int) -> Tensor:
    """`x (n, groups * in, h, w)`, `weight (groups * out, in, k, k)` -> `(n, groups * out, h', w')`; stride 1."""
    k = weight.shape[-1]
    n, height, width = len(x), x.shape[-2] + 2 * padding - k + 1, x.shape[-1] + 2 * padding - k + 1
    matrix = weight.unflatten(0, (groups, -1)).permute(0, 3, 4, 2, 1).flatten(1, 3)  # (groups, k * k * in, out)
    y = torch.bmm(_patches(x, k, padding, groups), matrix)  # (groups, n * height * width, out)
    y = y.view(groups, n, height, width, -1).permute(1, 2, 3, 0, 4)
    return y.flatten(3).permute(0, 3, 1, 2)  # channels last in memory


def to_input(g: Tensor, weight: Tensor, padding: int, groups: int) -> Tensor:
    """The gradient of `convolve` for its input: the convolution of `g` with the weights turned round."""
    turned = weight.unflatten(0, (groups, -1)).transpose(1, 2).flip(-2, -1).flatten(0, 1)  # (groups * in, out, k, k)
    return convolve(g, turned, weight.shape[-1] - 1 - padding, groups)


def to_weight(x: Tensor, g: Tensor, k: int, padding: int, groups: int) -> Tensor:
    """The gradient of `convolve` for its weight, `(groups * out, in, k, k)`."""
    columns = _by_group(g, groups).flatten(1, 3)  # (groups, n * h' * w', out)
    w = torch.bmm(columns.mT, _patches(x, k, padding, groups))  # (groups, out, k * k * in)
    return w.unflatten(2, (k, k, -1)).permute(0, 1, 4, 2, 3).flatten(0, 1)


def _patches(x: Tensor, k: int, padding: int, groups: int) -> Tensor:
    windows = F.pad(x, [padding] * 4).unfold(2, k, 1).unfold(3, k, 1)  # (n, groups * in, h', w', k, k)
    return windows.unflatten(1, (groups, -1)).permute(1, 0, 3, 4, 5, 6, 2).flatten(4).flatten(1, 3)


def _by_group(x: Tensor, groups: int) -> Tensor:
    return x.unflatten(1, (groups, -1)).permute(1, 0, 3, 4, 2)  # (groups, n, h, w, channels)
