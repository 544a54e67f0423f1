"""Cross-attention: each target reads a weighted mean of the values, weighted by how well it matches their keys.

A. Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.2: for a query q,

    softmax_i(q . k_i / sqrt(width)) applied to the v_i,    once per head, each with its slice of the width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def attend(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """Multi-head attention without projections of its own: each head has a slice of the width.

    Args:
        queries: `(..., targets, width)`.
        keys, values: `(..., examples, width)`.
        heads: divides the width.

    Returns:
        `(..., targets, width)`.
    """
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(-2, -3) for t in (queries, keys, values))  # (..., heads, n, w)
    return F.scaled_dot_product_attention(q, k, v).transpose(-2, -3).flatten(-2)
