"""Normalisation that is right, and fast, inside an inner loop.

`F.batch_norm`, `F.instance_norm` and `F.layer_norm` give wrong second-order gradients under
`torch.func.vmap(grad(...))`, without an error, when their scale and a layer before them are adapted (a test documents
it).  Here the mean and the variance of every channel come from one kernel whose gradient is written out,

    d mean / d x = 1 / N,    d var / d x = 2 (x - mean) / N,

and the rest is arithmetic, which differentiates itself to any order.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
    transductive, until `fix_statistics` gives it statistics to keep.  With `groups=g` each example is normalised on its
    own, over g groups of channels (Wu and He, 2018).
    """

    def __init__(self, channels: int, groups: int | None = None, eps: float = 1e-5) -> None:
        super().__init__()
        if groups is not None and (groups < 1 or channels % groups):
            raise ValueError(f"groups must divide the channels, got {groups} groups for {channels} channels")
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.groups, self.eps = groups, eps
        self.register_buffer("fixed", None)  # (2, channels): mean and variance, whatever the batch
        self.seen: list[Tensor] | None = None  # statistics of the calls inside `fix_statistics`

    @property
    def uses_batch_statistics(self) -> bool:
        """Whether the answer to one query depends on the others of the call."""
        return self.groups is None and self.fixed is None

    def statistics(self, x: Tensor, sign: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
        """Mean and variance of every channel that `x` is normalised by: its own, or the fixed ones.

        Args:
            x: `(n, channels, height, width)`.
            sign: 1 or -1, or `(channels,)` of them, by which the caller has multiplied `x`; the fixed ones follow.
        """
        if self.fixed is not None:
            return self.fixed[0] * sign, self.fixed[1]
        mean, var = moments(x)
        if self.seen is not None:
            self.seen.append(torch.stack([mean * sign, var]).detach())
        return mean, var

    def forward(self, x: Tensor) -> Tensor:
        if self.groups is None:
            return normalise(x, *self.statistics(x), self.weight, self.bias, self.eps)
        each = x.reshape(1, len(x) * self.groups, -1)  # each group of each example is a channel of its own
        mean, var = (statistic[:, None] for statistic in moments(each))
        y = ((each - mean) * (var + self.eps).rsqrt()).view(x.shape)
        return torch.addcmul(self.bias[:, None, None], y, self.weight[:, None, None])

    def extra_repr(self) -> str:
        """Channels and groups."""
        return f"{len(self.weight)}, groups={self.groups}"


@contextmanager
def fix_statistics(network: nn.Module) -> Iterator[None]:
    """Make a trained network answer each query on its own: what its batches had in common replaces their statistics.

    Each batch normalisation of `network` notes mean and variance of every call inside the block, and uses the average
    over these calls ever after, as networks with running averages do in evaluation.  It changes the network in place.

        with fix_statistics(encoder), torch.no_grad():
            for images in batches:
                encoder(images)

    The calls must be plain ones, not inside `torch.func.vmap`: give it the encoder, not a learner with its episodes.

    Raises:
        ValueError: the network has no batch normalisation to fix, or the block never called it.
    """
    norms = [module for module in network.modules() if isinstance(module, Norm) and module.uses_batch_statistics]
    if not norms:
        raise ValueError("the network has no normalisation by batch statistics, so there is nothing to fix")
    for norm in norms:
        norm.seen = []
    try:
        yield
        if not all(norm.seen for norm in norms):
            raise ValueError("a normalisation of the network saw no batch: call the network inside the block")
        for norm in norms:
            norm.fixed = torch.stack(norm.seen).mean(0)
    finally:
        for norm in norms:
            norm.seen = None
