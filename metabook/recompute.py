"""Memory for time: forget what a function computed on the way, and compute it again when its gradient is asked for.

An inner loop that is differentiated as usual keeps the activations of every step.  Recomputed, it keeps only the
weights between the steps: the memory of one step, whatever their number, for one more evaluation of each
(T. Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.func import vjp
from torch.utils._pytree import tree_flatten, tree_unflatten


def recomputed(function: Callable[..., Any], *inputs: Any) -> Any:
    """`function(*inputs)`, without keeping the graph of what happens inside.

    Differentiable once, which is what a meta-gradient needs, and under `torch.func.vmap`.

    Args:
        function: from trees of tensors to a tree of tensors.  It must be deterministic, and every tensor that
            depends on the task or needs a gradient must come through `inputs`.
        inputs: trees of tensors (tensors, tuples, dictionaries).
    """
    tensors, shape = tree_flatten(inputs)
    made: list[Any] = []
    kind = next((t.device.type for t in tensors if isinstance(t, Tensor)), "cpu")
    precision = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)  # when it is computed again, as now

    def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast(kind, *precision, cache_enabled=False):
            outputs, form = tree_flatten(function(*tree_unflatten(tensors, shape)))
        made[:] = [form]
        return tuple(outputs)

    outputs = _Recomputed.apply(flat, *tensors)
    return tree_unflatten(outputs, made[0])


class _Recomputed(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(flat: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
        return flat(*tensors)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.flat, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, *g):
        tensors = ctx.saved_tensors
        moving = [i for i, needed in enumerate(ctx.needs_input_grad[1:]) if needed]

        def function(*values: Tensor) -> tuple[Tensor, ...]:
            every = list(tensors)
            for i, value in zip(moving, values, strict=True):
                every[i] = value
            return ctx.flat(*every)

        gradients: list[Tensor | None] = [None] * len(tensors)
        for i, gradient in zip(moving, vjp(function, *(tensors[i] for i in moving))[1](g), strict=True):
            gradients[i] = gradient
        return None, *gradients
