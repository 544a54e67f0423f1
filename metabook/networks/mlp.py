"""The multi-layer perceptron."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn


def mlp(sizes: Sequence[int], activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers with an activation between them.

    Args:
        sizes: width of every layer from inputs to outputs, e.g. `[1, 40, 40, 1]`, the network of the sinusoid
            experiment of Finn et al. (2017), section 5.1.
        activation: a constructor, called once per hidden layer.

    Returns:
        A network `(..., sizes[0]) -> (..., sizes[-1])`.
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"mlp needs at least an input and an output width, all positive, got {list(sizes)}")
    layers: list[nn.Module] = []
    for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1])
