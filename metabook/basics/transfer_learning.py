"""Transfer: starting from what another task has learned, and what that is worth where it can be computed.

*Fine-tuning is shrinkage.*  Gradient descent on a quadratic loss with Hessian H and minimum w*, from the start w_0,

    w_k = w* + (I - lr H)^k (w_0 - w*),

so in each eigendirection of H the start keeps the share (1 - lr lambda)^k.  A penalty that pulls to the start does the
same with another share, L2-SP of X. Li, Y. Grandvalet, F. Davoine, "Explicit Inductive Bias for Transfer Learning with
Convolutional Networks", ICML 2018:

    w = argmin  mean (y - X w)^2 / 2  +  beta ||w - w_0||^2 / 2,      share  beta / (lambda + beta).

*What a start is worth.*  Fitted without error to n < d - 1 examples with Gaussian inputs and noise of variance s^2,
from the start w_0, the expected excess risk is

    (1 - n / d) ||w_true - w_0||^2  +  s^2 n / (d - n - 1)

(for w_0 = 0: T. Hastie, A. Montanari, S. Rosset, R. J. Tibshirani, "Surprises in High-Dimensional Ridgeless Least
Squares Interpolation", Annals of Statistics 50(2), 2022, study its limit).  So a start helps if and only if it is
nearer to the truth than zero.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from metabook.tasks.distribution import check_counts


def with_new_head(network: nn.Sequential, outputs: int, seed: int) -> nn.Sequential:
    """A copy of a network whose last layer is new and random: the old features, for a new question.

    Args:
        network: ends with a linear layer; it is left as it is.
        outputs: of the new head.
        seed: of its weights.

    Raises:
        ValueError: the last layer is not linear, or no output.
    """
    check_counts(outputs=outputs)
    if not isinstance(network[-1], nn.Linear):
        raise ValueError(f"the head to be replaced must be a linear layer, got {type(network[-1]).__name__}")
    device = network[-1].weight.device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(network[-1].in_features, outputs)
    return nn.Sequential(*copy.deepcopy(network[:-1]), head.to(device))


def last_layers(network: nn.Sequential, count: int) -> set[str]:
    """Names of the weights and biases of the last `count` linear layers.

    Raises:
        ValueError: there are not so many, or `count` below one.
    """
    check_counts(count=count)
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if count > len(linear):
        raise ValueError(f"the network has {len(linear)} linear layers, so its last {count} do not exist")
    return {f"{layer}.{kind}" for layer in linear[-count:] for kind in ("weight", "bias")}


def share_of_start(eigenvalues: Tensor, lr: float, steps: int) -> Tensor:
    """What gradient descent keeps of its start in each eigendirection of the Hessian: (1 - lr lambda)^steps.

    Raises:
        ValueError: a rate at which the steps grow, lr times an eigenvalue outside of 0..2.
    """
    if not (0 <= (lr * eigenvalues).min() and (lr * eigenvalues).max() < 2):
        largest = float(eigenvalues.max())
        raise ValueError(f"with eigenvalues up to {largest:.3g} the rate must be positive and below {2 / largest:.3g}")
    return (1 - lr * eigenvalues) ** steps


def l2_sp(x: Tensor, y: Tensor, start: Tensor, strength: float) -> Tensor:
    """The linear model that minimises mean (y - x w)^2 / 2 + strength ||w - start||^2 / 2.

    Args:
        x: `(..., n, d)`.
        y: `(..., n)`.
        start: `(d,)` or `(..., d)`.
        strength: beta, positive.

    Returns:
        `(..., d)`.

    Raises:
        ValueError: a strength that is not positive.
    """
    if not strength > 0:
        raise ValueError(f"strength must be positive, got {strength}; nearest_fit is its limit at 0")
    hessian = x.mT @ x / x.shape[-2]
    pull = strength * torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    residual = y - (x @ start[..., None])[..., 0]
    step = torch.linalg.solve(hessian + pull, (x.mT @ residual[..., None]) / x.shape[-2])
    return start + step[..., 0]


def nearest_fit(x: Tensor, y: Tensor, start: Tensor) -> Tensor:
    """Of all linear models that fit the examples best, the one nearest to the start: where gradient descent ends.

    Args:
        x: `(..., n, d)`.
        y: `(..., n)`.
        start: `(d,)` or `(..., d)`.

    Returns:
        `(..., d)`.
    """
    residual = y - (x @ start[..., None])[..., 0]
    return start + (torch.linalg.pinv(x) @ residual[..., None])[..., 0]


def risk_of_start(n: int, d: int, distance: float, noise: float) -> float:
    """Expected excess risk of `nearest_fit` for standard normal inputs: ||w_true - start|| is the distance.

    Args:
        n: examples.
        d: inputs.
        distance: of the start from the truth.
        noise: standard deviation of the targets around the true line.

    Returns:
        Mean squared error above that of the truth; infinite within one of n = d.

    Raises:
        ValueError: counts below one.
    """
    check_counts(n=n, d=d)
    if abs(n - d) <= 1:
        return float("inf") if noise else max(0.0, 1 - n / d) * distance**2
    if n < d:
        return (1 - n / d) * distance**2 + noise**2 * n / (d - n - 1)
    return noise**2 * d / (n - d - 1)
