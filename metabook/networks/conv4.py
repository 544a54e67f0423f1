"""Conv4, the network of few-shot learning: four blocks of convolution, normalisation, pooling and ReLU.

Vinyals et al. (2016), section 4.1.1; used by Finn et al. (2017) and Snell et al. (2017).

Convolution, normalisation and pooling are the library's own, right to second order inside an inner loop over many
tasks.  The largest pixel of a window stays the largest under a rising map, so a block pools before it normalises and
rectifies: the same output, from a quarter of the work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from metabook.networks.conv2d import conv2d
from metabook.networks.max_pool import max_pool
from metabook.networks.norm import Norm, normalise


class Block(nn.Module):
    """3x3 convolution, normalisation, 2x2 max-pooling, ReLU: `(n, in, h, w) -> (n, out, h // 2, w // 2)`."""

    def __init__(self, inputs: int, outputs: int, groups: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 3, 3))
        nn.init.xavier_uniform_(self.weight)
        self.norm = Norm(outputs, groups)  # its shift serves as the bias of the convolution

    def forward(self, x: Tensor) -> Tensor:
        return self.of(lambda weight: conv2d(x, weight))

    def of(self, convolve: Callable[[Tensor], Tensor]) -> Tensor:
        """The block's output, where `convolve` maps weights of the shape of its own to the convolved maps."""
        if self.norm.groups:
            return max_pool(self.norm(convolve(self.weight))).relu()
        scale, shift = self.norm.weight, self.norm.bias
        rising = torch.where(scale < 0, -1.0, 1.0).to(scale)  # a channel that a negative scale would turn round, turned
        x = convolve(self.weight * rising[:, None, None, None])
        mean, var = self.norm.statistics(x, rising)
        return normalise(max_pool(x), mean, var, scale * rising, shift, self.norm.eps).relu()


def conv4(
    in_channels: int = 1,
    channels: int | Sequence[int] = 64,
    outputs: int | None = None,
    norm: str = "batch",
    image_size: int = 28,
) -> nn.Sequential:
    """Four blocks, then (with `outputs`) a linear layer.

    Args:
        in_channels: channels of the images.
        channels: width of every block, or of each of the four.
        outputs: number of outputs; None gives the encoder, whose output is the flattened last block,
            as many features as the last width for images of 16 to 31 pixels.
        norm: "batch" (statistics of the call, transductive) or "group" (each example on its own).
        image_size: height and width of the images in pixels, at least 16.

    Returns:
        A network `(n, in_channels, image_size, image_size) -> (n, outputs or features)`.

    Raises:
        ValueError: unknown `norm`, not one or four widths, or images too small for four poolings.
    """
    if norm not in ("batch", "group"):
        raise ValueError(f'norm must be "batch" or "group", got {norm!r}')
    if image_size < 16:
        raise ValueError(f"four 2x2 poolings need images of at least 16 pixels, got {image_size}")
    widths = [in_channels, *([channels] * 4 if isinstance(channels, int) else channels)]
    if len(widths) != 5:
        raise ValueError(f"Conv4 has four blocks: channels must be one width or four, got {channels}")
    blocks = [
        Block(inputs, width, math.gcd(8, width) if norm == "group" else None)
        for inputs, width in zip(widths[:-1], widths[1:], strict=True)
    ]
    layers: list[nn.Module] = [*blocks, nn.Flatten()]
    if outputs is not None:
        layers.append(nn.Linear(widths[-1] * (image_size // 16) ** 2, outputs))
    return nn.Sequential(*layers)
