"""Attention and the transformer block, exact to second order under `torch.func.vmap`.

A. Vaswani, N. Shazeer, N. Parmar, J. Uszkoreit, L. Jones, A. N. Gomez, L. Kaiser, I. Polosukhin, "Attention Is All You
Need", NeurIPS 2017.  With queries Q, keys K and values V, one row for each token,

    attention(Q, K, V) = softmax(Q K' / sqrt(d)) V                    (their equation 1)

in several heads of d = width / heads features each, joined by a linear layer.  The block normalises before each of its
two parts and not after, which trains without a warm-up (R. Xiong et al., "On Layer Normalization in the Transformer
Architecture", ICML 2020):

    x <- x + attention(norm(x)),    x <- x + mlp(norm(x)).

All of it is written in products and arithmetic.  The fused kernels of PyTorch are not used: on a CPU their attention
has no second derivative, and `F.layer_norm` has a wrong one under `vmap(grad(...))`.

The keys and values of some tokens can be kept, so that other tokens read them later:

    memory = block.remember(context)
    x = block(x, memory)                  each token of x reads the context, and no other token of x
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from metabook.tasks.distribution import check_counts


class KeysValues(NamedTuple):
    """What other tokens can read of some tokens, head by head."""

    keys: Tensor  # (..., heads, tokens, width / heads)
    values: Tensor  # (..., heads, tokens, width / heads)


def attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """For every query, the mean of the values, weighted by the softmax of its scaled inner products with the keys.

    Args:
        queries: `(..., n, d)`.
        keys: `(..., m, d)`.
        values: `(..., m, e)`.
        mask: bool, broadcast to `(..., n, m)`: True where a query may read; each must be allowed at least one key.

    Returns:
        `(..., n, e)`.
    """
    scores = queries @ keys.mT * queries.shape[-1] ** -0.5  # (..., n, m)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1) @ values


class MultiHeadAttention(nn.Module):
    """Attention in several heads, each with its own part of the queries, keys and values.

    Args:
        width: features of a token.
        heads: they share the width equally.

    Raises:
        ValueError: a count below one, or heads that do not divide the width.
    """

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        check_counts(width=width, heads=heads)
        if width % heads:
            raise ValueError(f"heads must divide the width, got {heads} heads for a width of {width}")
        self.heads = heads
        self.query, self.output = nn.Linear(width, width), nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)

    def remember(self, context: Tensor) -> KeysValues:
        """Keys and values of tokens `(..., tokens, width)`."""
        return KeysValues(*(self._split(part) for part in self.key_value(context).chunk(2, dim=-1)))

    def forward(self, x: Tensor, memory: KeysValues | None = None, mask: Tensor | None = None) -> Tensor:
        """What the tokens `x (..., n, width)` read: from `memory` `(m tokens)`, or from each other without one.

        Args:
            x: the tokens that read.
            memory: keys and values to be read.
            mask: bool, broadcast to `(..., heads, n, m)`: True where a token may read.

        Returns:
            `(..., n, width)`.
        """
        keys, values = self.remember(x) if memory is None else memory
        heads = attention(self._split(self.query(x)), keys, values, mask)  # (..., heads, n, width / heads)
        return self.output(heads.transpose(-3, -2).flatten(-2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)


class LayerNorm(nn.Module):
    """Each token `(..., width)` to mean 0 and variance 1, then a learned scale and shift per feature."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        return torch.addcmul(self.bias, centred * scale, self.weight)


class TransformerBlock(nn.Module):
    """Pre-norm block: tokens read from each other or from a memory, then each is transformed on its own.

    Args:
        width: features of a token.
        heads: of the attention.
        hidden: width of the hidden layer, 4 times the width by default.

    Raises:
        ValueError: a count below one, or heads that do not divide the width.
    """

    def __init__(self, width: int, heads: int = 4, hidden: int | None = None) -> None:
        super().__init__()
        hidden = 4 * width if hidden is None else hidden
        check_counts(hidden=hidden)
        self.attention = MultiHeadAttention(width, heads)
        self.norm_attention, self.norm_mlp = LayerNorm(width), LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def remember(self, context: Tensor) -> KeysValues:
        """Keys and values of tokens `(..., tokens, width)`, as others will read them in this block."""
        return self.attention.remember(self.norm_attention(context))

    def forward(self, x: Tensor, memory: KeysValues | None = None, mask: Tensor | None = None) -> Tensor:
        """Tokens `(..., n, width)` to tokens; for `memory` and `mask` see `MultiHeadAttention`."""
        x = x + self.attention(self.norm_attention(x), memory, mask)
        return x + self.mlp(self.norm_mlp(x))
