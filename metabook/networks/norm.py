"""Normalisation that is right, and fast, inside an inner loop.

`F.batch_norm`, `F.instance_norm` and `F.layer_norm` give wrong second-order gradients under
`torch.func.vmap(grad(...))`, without an error, when their scale and a layer before them are adapted (a test documents
it).  Here the mean and the variance of every channel come from one kernel whose gradient is written out,

    d mean / d x = 1 / N,    d var / d x = 2 (x - mean) / N,

and the rest is arithmetic, which differentiates itself to any order.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd import Function

from metabook.networks.folding import fold, unfold


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of every channel of `x (n, channels, ...)` over all other dimensions, each `(channels,)`.

    The variance is the mean squared deviation.  Differentiable to any order and under `torch.func` transforms.
    """
    return _Moments.apply(x)


def normalise(x: Tensor, mean: Tensor, var: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-5) -> Tensor:
    """`scale * (x - mean) / sqrt(var + eps) + shift`, all but `x (n, channels, height, width)` per channel."""
    slope = scale * (var + eps).rsqrt()
    return torch.addcmul((shift - mean * slope)[:, None, None], x, slope[:, None, None])


class _Moments(Function):
    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ops.aten.batch_norm_update_stats(x, None, None, 0.0)  # 10 times faster than torch.var_mean

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0], output[0])

    @staticmethod
    def backward(ctx, g_mean, g_var):
        x, mean = ctx.saved_tensors
        share = x.shape[1] / x.numel()
        slope = 2 * share * g_var
        shape = (-1, *[1] * (x.ndim - 2))
        return torch.addcmul((share * g_mean - slope * mean).view(shape), x, slope.view(shape))

    @staticmethod
    def vmap(info, in_dims, x):
        mean, var = _Moments.apply(fold(x, in_dims[0], info.batch_size))
        return (unfold(mean, info.batch_size), unfold(var, info.batch_size)), (0, 0)


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
            return normalise(x, *moments(x), self.weight, self.bias, self.eps)
        each = x.reshape(1, len(x) * self.groups, -1)  # each group of each example is a channel of its own
        mean, var = (statistic[:, None] for statistic in moments(each))
        y = ((each - mean) * (var + self.eps).rsqrt()).view(x.shape)
        return torch.addcmul(self.bias[:, None, None], y, self.weight[:, None, None])

    def extra_repr(self) -> str:
        """Channels and groups."""
        return f"{len(self.weight)}, groups={self.groups}"
