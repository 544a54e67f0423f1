"""Tasks as channels: how one call of a backend's kernel serves a whole batch of tasks.

Convolution with groups, pooling and the statistics of normalisation treat every channel on its own.  A batch of tasks
`(tasks, n, channels, ...)`, each with weights of its own, is therefore one input `(n, tasks * channels, ...)`.  The
number of calls does not depend on the number of tasks, and no data move: in memory the channels come last
(`torch.channels_last`), the layout in which these kernels are fastest, with those of one task beside each other.
"""

from __future__ import annotations

import torch
from torch import Tensor


def fold(t: Tensor, dim: int | None, tasks: int) -> Tensor:
    """Make a task dimension part of the channels: `(tasks, n, c, ...)` -> `(n, tasks * c, ...)`.

    Args:
        t: images, or statistics `(tasks, c)` that have no examples.
        dim: where the task dimension is; None if `t` has none and is the same for all tasks.
        tasks: how many there are.
    """
    t = t.expand(tasks, *t.shape) if dim is None else t.movedim(dim, 0)
    return t.flatten() if t.ndim == 2 else t.movedim(0, 1).flatten(1, 2)


def unfold(t: Tensor, tasks: int) -> Tensor:
    """The inverse of `fold`, task dimension first."""
    return t.unflatten(0, (tasks, -1)) if t.ndim == 1 else t.unflatten(1, (tasks, -1)).movedim(1, 0)


def channels_last(x: Tensor) -> Tensor:
    """`x (n, c, h, w)` with its channels side by side in memory."""
    n, c, h, w = x.shape
    if c > 1:
        return x.contiguous(memory_format=torch.channels_last)
    return x.contiguous().as_strided(x.shape, (h * w, 1, w, 1))  # both layouts are one, but only this is taken for it


def placeholder(like: Tensor, *shape: int) -> Tensor:
    """What a backend's gradient wants in place of an input of which it reads only shape, type and layout."""
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
