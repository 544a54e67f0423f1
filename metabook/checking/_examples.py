"""Problems that the graders of several chapters use."""

import torch
from torch import Tensor


def bowl(features: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Start, centre and Hessian of one bowl, in float64."""
    generator = torch.Generator().manual_seed(seed)
    start, centre = torch.randn(2, features, generator=generator, dtype=torch.float64)
    root = torch.randn(features, features, generator=generator, dtype=torch.float64)
    return start, centre, root @ root.T / features + 0.2 * torch.eye(features, dtype=torch.float64)
