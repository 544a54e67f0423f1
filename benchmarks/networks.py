"""The networks as people write them in plain PyTorch: what the peers are given."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Block(nn.Module):
    """Convolution, batch normalisation with the statistics of the call, ReLU, max-pooling."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(self.norm(self.conv(x))), 2)


def conv4(width: int, outputs: int | None) -> nn.Sequential:
    """Four blocks, flattened, then (with `outputs`) a linear layer, for images of 16 to 31 pixels."""
    blocks = [Block(1, width), *(Block(width, width) for _ in range(3)), nn.Flatten()]
    return nn.Sequential(*blocks, *([] if outputs is None else [nn.Linear(width, outputs)]))


def cnp() -> nn.ModuleDict:
    """The two networks of a conditional neural process, 128 wide."""
    return nn.ModuleDict({"encoder": mlp([2, 128, 128, 128, 128]), "decoder": mlp([129, 128, 128, 2])})
