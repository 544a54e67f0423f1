"""Max-pooling that is closed under differentiation, and fast over tasks.

Pooling picks one pixel of each window.  With the places of the picks fixed it is linear, its gradient spreads values
back to those places, and the two are the derivatives of each other.

The two kernels are registered as operators of the library, which `torch.compile` calls as they are: what it would write
in their place is many times slower on a CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function

from metabook.networks.folding import channels_last, fold, placeholder, unfold


def max_pool(x: Tensor) -> Tensor:
    """The largest value of each 2x2 window: `(n, c, h, w) -> (n, c, h // 2, w // 2)`; odd edges are left out.

    Differentiable to any order and under `torch.func` transforms; equals `torch.nn.functional.max_pool2d(x, 2)`.
    """
    return _Pool.apply(x)[0]


@torch.library.custom_op("metabook::max_pool", mutates_args=())
def _pool(x: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ops.aten.max_pool2d_with_indices(x, [2, 2], [2, 2])


@_pool.register_fake
def _(x: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ops.aten.max_pool2d_with_indices(x, [2, 2], [2, 2])


@torch.library.custom_op("metabook::spread", mutates_args=())
def _spread(g: Tensor, places: Tensor, height: int, width: int) -> Tensor:
    x, g, places = placeholder(g, *g.shape[:2], height, width), channels_last(g), channels_last(places)
    return torch.ops.aten.max_pool2d_with_indices_backward(g, x, [2, 2], [2, 2], [0, 0], [1, 1], False, places)


@_spread.register_fake
def _(g: Tensor, places: Tensor, height: int, width: int) -> Tensor:
    return placeholder(g, *g.shape[:2], height, width)


class _Pool(Function):
    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        return _pool(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.size = inputs[0].shape[-2:]
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx, g, _):
        return _Spread.apply(g, *ctx.saved_tensors, ctx.size)

    @staticmethod
    def vmap(info, in_dims, x):
        tasks = info.batch_size
        y, places = _Pool.apply(fold(x, in_dims[0], tasks))
        return (unfold(y, tasks), unfold(places, tasks)), (0, 0)


class _Spread(Function):
    @staticmethod
    def forward(g: Tensor, places: Tensor, size: tuple[int, int]) -> Tensor:
        return _spread(g, places, *size)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx, h):
        return _Pick.apply(h, *ctx.saved_tensors), None, None

    @staticmethod
    def vmap(info, in_dims, g, places, size):
        tasks = info.batch_size
        return unfold(_Spread.apply(fold(g, in_dims[0], tasks), fold(places, in_dims[1], tasks), size), tasks), 0


class _Pick(Function):
    @staticmethod
    def forward(x: Tensor, places: Tensor) -> Tensor:
        pixels, picks = (t.movedim(1, -1).flatten(1, 2) for t in (x, places))  # (n, h * w, c)
        return pixels.gather(1, picks).unflatten(1, places.shape[-2:]).movedim(-1, 1)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, places = inputs
        ctx.size = x.shape[-2:]
        ctx.save_for_backward(places)

    @staticmethod
    def backward(ctx, g):
        return _Spread.apply(g, *ctx.saved_tensors, ctx.size), None

    @staticmethod
    def vmap(info, in_dims, x, places):
        tasks = info.batch_size
        return unfold(_Pick.apply(fold(x, in_dims[0], tasks), fold(places, in_dims[1], tasks)), tasks), 0
