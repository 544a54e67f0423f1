"""Networks that work inside inner loops: exact to second order under `torch.func.vmap`."""

from metabook.networks.attention import KeysValues, LayerNorm, MultiHeadAttention, TransformerBlock, attention
from metabook.networks.conv2d import conv2d
from metabook.networks.conv4 import conv4
from metabook.networks.max_pool import max_pool
from metabook.networks.mlp import mlp
from metabook.networks.norm import Norm, fix_statistics, moments, normalise

__all__ = [
    "KeysValues",
    "LayerNorm",
    "MultiHeadAttention",
    "Norm",
    "TransformerBlock",
    "attention",
    "conv2d",
    "conv4",
    "fix_statistics",
    "max_pool",
    "mlp",
    "moments",
    "normalise",
]
