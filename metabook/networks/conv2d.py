"""A convolution that is closed under differentiation, and fast over tasks.

Convolution is linear in its input and in its weight, so the convolution, its gradient for the input and its
gradient for the weight are the derivatives of one another, to any order:

    y  = conv(x, w)        d y  = conv(dx, w) + conv(x, dw)
    gx = to_input(g, w)    <gx, dx> = <g, conv(dx, w)>
    gw = to_weight(x, g)   <gw, dw> = <g, conv(x, dw)>

PyTorch decomposes the *second* derivative of a convolution into many small operations, and loops over the groups
of a grouped one.  Here each of the three is one call of the backend, whatever the order of the derivative, and
`torch.func.vmap` turns tasks into groups of channels (`metabook.networks.folding`).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function

from metabook.networks import patches
from metabook.networks.folding import channels_last, fold, placeholder, unfold


def conv2d(x: Tensor, weight: Tensor, padding: int = 1) -> Tensor:
    """Cross-correlate with stride 1: `x (n, in, h, w)`, `weight (out, in, k, k)` -> `(n, out, h', w')`.

    Differentiable to any order and under `torch.func` transforms; equals `torch.nn.functional.conv2d`, also in its
    precision under `torch.autocast`.
    """
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        x, weight = (t.to(torch.get_autocast_dtype(kind)) for t in (x, weight))
    return _Conv.apply(x, weight, padding, 1)


class _Conv(Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, padding: int, groups: int) -> Tensor:
        x = channels_last(x)
        if _by_products(x, weight.shape[1], groups):
            return patches.convolve(x, weight, padding, groups)
        return torch.ops.aten.convolution(x, weight, None, [1, 1], [padding] * 2, [1, 1], False, [0, 0], groups)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, ctx.padding, ctx.groups = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx, g):
        x, weight = ctx.saved_tensors
        gx = gw = None
        if ctx.needs_input_grad[0]:
            gx = _ToInput.apply(g, weight, x.shape[-2:], ctx.padding, ctx.groups)
        if ctx.needs_input_grad[1]:
            gw = _ToWeight.apply(x, g, weight.shape[-2:], ctx.padding, ctx.groups)
        return gx, gw, None, None

    @staticmethod
    def vmap(info, in_dims, x, weight, padding, groups):
        tasks = info.batch_size
        x, weight = fold(x, in_dims[0], tasks), _fold_weight(weight, in_dims[1], tasks)
        return unfold(_Conv.apply(x, weight, padding, groups * tasks), tasks), 0


class _ToInput(Function):
    @staticmethod
    def forward(g: Tensor, weight: Tensor, size: tuple[int, int], padding: int, groups: int) -> Tensor:
        if _by_products(g, weight.shape[1], groups, thin=False):
            return patches.to_input(channels_last(g), weight, padding, groups)
        x = placeholder(g, g.shape[0], weight.shape[1] * groups, *size)
        return _backward(channels_last(g), x, weight, padding, groups, [True, False, False])[0]

    @staticmethod
    def setup_context(ctx, inputs, output):
        g, weight, ctx.size, ctx.padding, ctx.groups = inputs
        ctx.save_for_backward(g, weight)

    @staticmethod
    def backward(ctx, dx):
        g, weight = ctx.saved_tensors
        gg = gw = None
        if ctx.needs_input_grad[0]:
            gg = _Conv.apply(dx, weight, ctx.padding, ctx.groups)
        if ctx.needs_input_grad[1]:
            gw = _ToWeight.apply(dx, g, weight.shape[-2:], ctx.padding, ctx.groups)
        return gg, gw, None, None, None

    @staticmethod
    def vmap(info, in_dims, g, weight, size, padding, groups):
        tasks = info.batch_size
        g, weight = fold(g, in_dims[0], tasks), _fold_weight(weight, in_dims[1], tasks)
        return unfold(_ToInput.apply(g, weight, size, padding, groups * tasks), tasks), 0


class _ToWeight(Function):
    @staticmethod
    def forward(x: Tensor, g: Tensor, size: tuple[int, int], padding: int, groups: int) -> Tensor:
        if _by_products(x, x.shape[1] // groups, groups):
            return patches.to_weight(channels_last(x), channels_last(g), size[0], padding, groups)
        weight = placeholder(x, g.shape[1], x.shape[1] // groups, *size)
        return _backward(channels_last(g), channels_last(x), weight, padding, groups, [False, True, False])[1]

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, g, ctx.size, ctx.padding, ctx.groups = inputs
        ctx.save_for_backward(x, g)

    @staticmethod
    def backward(ctx, dw):
        x, g = ctx.saved_tensors
        gx = gg = None
        if ctx.needs_input_grad[0]:
            gx = _ToInput.apply(g, dw, x.shape[-2:], ctx.padding, ctx.groups)
        if ctx.needs_input_grad[1]:
            gg = _Conv.apply(x, dw, ctx.padding, ctx.groups)
        return gx, gg, None, None, None

    @staticmethod
    def vmap(info, in_dims, x, g, size, padding, groups):
        tasks = info.batch_size
        x, g = fold(x, in_dims[0], tasks), fold(g, in_dims[1], tasks)
        weight = _ToWeight.apply(x, g, size, padding, groups * tasks)  # (tasks * out, in, k, k)
        return weight.unflatten(0, (tasks, -1)), 0


def _by_products(x: Tensor, channels: int, groups: int, thin: bool = True) -> bool:
    """Whether matrix products are faster than the backend's convolution with `channels` inputs in each group.

    They are on a GPU where its tensor cores cannot take part, and, if the operation is quick on `thin` inputs, for one
    channel, which fills no tensor core.
    """
    if not x.is_cuda or groups == 1:
        return False
    tensor_cores = torch.backends.cudnn.allow_tf32 if x.dtype == torch.float32 else x.dtype != torch.float64
    return thin if channels == 1 else not tensor_cores


def _fold_weight(weight: Tensor, dim: int | None, tasks: int) -> Tensor:
    weight = weight.expand(tasks, *weight.shape) if dim is None else weight.movedim(dim, 0)
    return weight.flatten(0, 1)  # (tasks * out, in, k, k)


def _backward(g: Tensor, x: Tensor, weight: Tensor, padding: int, groups: int, wanted: list[bool]) -> tuple:
    return torch.ops.aten.convolution_backward(
        g, x, weight, None, [1, 1], [padding] * 2, [1, 1], False, [0, 0], groups, wanted
    )
