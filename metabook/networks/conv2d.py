"""A convolution that is closed under differentiation, and fast over tasks.

Convolution is linear in its input and in its weight, so the convolution, its gradient for the input and its
gradient for the weight are the derivatives of one another, to any order:

    y  = conv(x, w)        d y  = conv(dx, w) + conv(x, dw)
    gx = to_input(g, w)    <gx, dx> = <g, conv(dx, w)>
    gw = to_weight(x, g)   <gw, dw> = <g, conv(x, dw)>

PyTorch decomposes the *second* derivative of a convolution into many small operations, and loops over the groups
of a grouped one.  Here each of the three is one call of the backend, whatever the order of the derivative, and
`torch.func.vmap` turns a task dimension into groups, so the number of calls does not depend on the number of tasks.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function


def conv2d(x: Tensor, weight: Tensor, padding: int = 1) -> Tensor:
    """Cross-correlate with stride 1: `x (n, in, h, w)`, `weight (out, in, k, k)` -> `(n, out, h', w')`.

    Differentiable to any order and under `torch.func` transforms; equals `torch.nn.functional.conv2d`.
    """
    return _Conv.apply(x, weight, padding, 1)


class _Conv(Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, padding: int, groups: int) -> Tensor:
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
        if in_dims[1] is None:  # one weight for all tasks: the tasks are more examples
            y = _Conv.apply(_to_examples(x, in_dims[0]), weight, padding, groups)
            return _from_examples(y, tasks), 0
        x, weight = _to_channels(x, in_dims[0], tasks, groups), _to_outputs(weight, in_dims[1], groups)
        return _from_channels(_Conv.apply(x, weight, padding, groups * tasks), tasks, groups), 0


class _ToInput(Function):
    @staticmethod
    def forward(g: Tensor, weight: Tensor, size: tuple[int, int], padding: int, groups: int) -> Tensor:
        x = g.new_empty(1).expand(g.shape[0], weight.shape[1] * groups, *size)  # only its shape is read
        return torch.ops.aten.convolution_backward(
            g, x, weight, None, [1, 1], [padding] * 2, [1, 1], False, [0, 0], groups, [True, False, False]
        )[0]

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
        if in_dims[1] is None:
            gx = _ToInput.apply(_to_examples(g, in_dims[0]), weight, size, padding, groups)
            return _from_examples(gx, tasks), 0
        g, weight = _to_channels(g, in_dims[0], tasks, groups), _to_outputs(weight, in_dims[1], groups)
        return _from_channels(_ToInput.apply(g, weight, size, padding, groups * tasks), tasks, groups), 0


class _ToWeight(Function):
    @staticmethod
    def forward(x: Tensor, g: Tensor, size: tuple[int, int], padding: int, groups: int) -> Tensor:
        weight = x.new_empty(1).expand(g.shape[1], x.shape[1] // groups, *size)  # only its shape is read
        return torch.ops.aten.convolution_backward(
            g, x, weight, None, [1, 1], [padding] * 2, [1, 1], False, [0, 0], groups, [False, True, False]
        )[1]

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
        x, g = _to_channels(x, in_dims[0], tasks, groups), _to_channels(g, in_dims[1], tasks, groups)
        weight = _ToWeight.apply(x, g, size, padding, groups * tasks)  # (groups * tasks * out, in, k, k)
        return weight.unflatten(0, (groups, tasks, -1)).transpose(0, 1).flatten(1, 2), 0


# The task dimension moves into the examples (shared weight) or into the channels, one group per task.
# With groups already there (nested vmap) the order of the channels is (group, task, channel).


def _to_examples(x: Tensor, dim: int) -> Tensor:
    return x.movedim(dim, 0).flatten(0, 1)  # (tasks * n, c, h, w)


def _from_examples(y: Tensor, tasks: int) -> Tensor:
    return y.unflatten(0, (tasks, -1))  # (tasks, n, c, h, w)


def _to_channels(x: Tensor, dim: int | None, tasks: int, groups: int) -> Tensor:
    x = x.expand(tasks, *x.shape) if dim is None else x.movedim(dim, 0)  # (tasks, n, groups * c, h, w)
    return x.unflatten(2, (groups, -1)).permute(1, 2, 0, 3, 4, 5).flatten(1, 3)  # (n, groups * tasks * c, h, w)


def _from_channels(y: Tensor, tasks: int, groups: int) -> Tensor:
    return y.unflatten(1, (groups, tasks, -1)).permute(2, 0, 1, 3, 4, 5).flatten(2, 3)  # (tasks, n, groups * c, h, w)


def _to_outputs(weight: Tensor, dim: int, groups: int) -> Tensor:
    weight = weight.movedim(dim, 0).unflatten(1, (groups, -1))  # (tasks, groups, out, in, k, k)
    return weight.transpose(0, 1).flatten(0, 2)  # (groups * tasks * out, in, k, k)
