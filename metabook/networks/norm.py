"""Normalisation that is right, and fast, inside an inner loop.

`F.batch_norm`, `F.instance_norm` and `F.layer_norm` give wrong second-order gradients under
`torch.func.vmap(grad(...))`, without an error, when their scale and a layer before them are adapted (a test documents
it).  Here the backend's kernels compute the normalisation and its gradient, and the second derivative is written out,
so that a meta-gradient is right and needs few passes over the activations.

With y = (x - mean) r, r = (var + eps)^(-1/2) and means m(.) over the normalised set, the gradient for x is

    N(g) = r (g - m(g) - y m(g y)),

which is linear and self-adjoint in g.  The gradient of <h, N(g)> is therefore N(h) for g, and for x

    -r^2 y (m(h g) - m(h) m(g) - m(h y) m(g y)) - N(r (m(g y) h + m(h y) g)).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def normalise(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Give every channel of `x (n, channels, ...)` mean zero and variance one over all other dimensions.

    Differentiable twice, also under `torch.func` transforms.
    """
    return _Normalise.apply(x, eps)[0]


class _Normalise(Function):
    @staticmethod
    def forward(x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        return torch.native_batch_norm(x, None, None, None, None, True, 0.0, eps)  # y, mean, r

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, ctx.eps = inputs
        _, mean, r = output
        ctx.mark_non_differentiable(mean, r)
        ctx.save_for_backward(x, mean, r)

    @staticmethod
    def backward(ctx, g, *_):
        return _Gradient.apply(g, *ctx.saved_tensors, ctx.eps), None

    @staticmethod
    def vmap(info, in_dims, x, eps):
        y, mean, r = _Normalise.apply(_fold(x, in_dims[0], info.batch_size), eps)
        return tuple(_unfold(t, info.batch_size) for t in (y, mean, r)), (0, 0, 0)


class _Gradient(Function):
    @staticmethod
    def forward(g: Tensor, x: Tensor, mean: Tensor, r: Tensor, eps: float) -> Tensor:
        return torch.ops.aten.native_batch_norm_backward(
            g, x, None, None, None, mean, r, True, eps, [True, False, False]
        )[0]

    @staticmethod
    def setup_context(ctx, inputs, output):
        g, x, mean, r, ctx.eps = inputs
        ctx.save_for_backward(g, x, mean, r)

    @staticmethod
    @once_differentiable  # a third derivative is not implemented
    def backward(ctx, h):
        g, x, mean, r = ctx.saved_tensors
        dims = [0, *range(2, x.ndim)]
        mean, r = (t.view(-1, *[1] * (x.ndim - 2)) for t in (mean, r))
        y = (x - mean) * r
        hg, hy, gy, h_, g_ = ((a * b if b is not None else a).mean(dims, keepdim=True)
                              for a, b in ((h, g), (h, y), (g, y), (h, None), (g, None)))  # fmt: skip
        for_x = for_g = None
        if ctx.needs_input_grad[0]:
            for_g = r * (h - h_ - y * hy)  # N(h)
        if ctx.needs_input_grad[1]:
            # N(gy h + hy g) is a combination of h, g and y with coefficients per channel
            coefficient_y = r * (hg - h_ * g_ - hy * gy) - r * 2 * gy * hy
            for_x = -r * (r * (gy * (h - h_) + hy * (g - g_)) + coefficient_y * y)
        return for_g, for_x, None, None, None

    @staticmethod
    def vmap(info, in_dims, g, x, mean, r, eps):
        folded = [_fold(t, d, info.batch_size) for t, d in zip((g, x, mean, r), in_dims[:4], strict=True)]
        return _unfold(_Gradient.apply(*folded, eps), info.batch_size), 0


def _fold(t: Tensor, dim: int | None, tasks: int) -> Tensor:
    """Make a task dimension part of the channels: `(tasks, n, c, ...)` -> `(n, tasks * c, ...)`."""
    t = t.expand(tasks, *t.shape) if dim is None else t.movedim(dim, 0)
    return t.flatten() if t.ndim == 2 else t.movedim(0, 1).flatten(1, 2)  # statistics are (tasks, c)


def _unfold(t: Tensor, tasks: int) -> Tensor:
    """The inverse, task dimension first."""
    return t.unflatten(0, (tasks, -1)) if t.ndim == 1 else t.unflatten(1, (tasks, -1)).movedim(1, 0)


class Norm(nn.Module):
    """Normalise `(n, channels, height, width)`, then apply a learned scale and shift per channel.

    With `groups=None` the statistics are those of the batch at hand, in training and in evaluation: each call is
    normalised by the mean and variance over its own examples and pixels (Ioffe and Szegedy, 2015, without running
    averages).  Predictions of one query then depend on the other queries of the call: such a learner is
    transductive.  With `groups=g` each example is normalised on its own, over g groups of channels
    (Wu and He, 2018).
    """

    def __init__(self, channels: int, groups: int | None = None, eps: float = 1e-5) -> None:
        super().__init__()
        if groups is not None and (groups < 1 or channels % groups):
            raise ValueError(f"groups must divide the channels, got {groups} groups for {channels} channels")
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.groups, self.eps = groups, eps
        self.uses_batch_statistics = groups is None

    def forward(self, x: Tensor) -> Tensor:
        if self.groups is None:
            y = normalise(x, self.eps)
        else:  # each group of each example is a channel of its own
            y = normalise(x.reshape(1, len(x) * self.groups, -1), self.eps).view(x.shape)
        return torch.addcmul(self.bias[:, None, None], y, self.weight[:, None, None])

    def extra_repr(self) -> str:
        """Channels and groups."""
        return f"{len(self.weight)}, groups={self.groups}"
