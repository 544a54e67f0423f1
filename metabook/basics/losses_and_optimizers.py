"""Losses as negative log-likelihoods, and optimisers as pairs of pure functions.

A loss is what a model of the noise says about an error, -log p(y | x), as a mean over all entries:

    Gaussian       (f - y)^2 / (2 variance) + log(2 pi variance) / 2
    categorical    log sum_k exp(z_k) - z_y                       its gradient in z is softmax(z) - onehot(y)

An optimiser is `(init, update)`, as in optax (github.com/google-deepmind/optax): `init` maps weights to a state,
`update` maps a gradient g and a state to the step to be added and the next state.  With the rate a:

    gradient descent   step = -a g
    momentum           m' = mu m + g                              step = -a m'     (Nesterov: -a (g + mu m'))
    RMSProp            v' = r v + (1 - r) g^2                      step = -a g / (sqrt(v') + eps)
    Adam, averages     m' = b1 m + (1 - b1) g,                     v' = b2 v + (1 - b2) g^2
    Adam, step t       step = -a  m' / (1 - b1^t)  /  (sqrt(v' / (1 - b2^t)) + eps)
    AMSGrad            as Adam, with the largest v' so far in place of v'

B. T. Polyak, "Some methods of speeding up the convergence of iteration methods", USSR Computational Mathematics and
Mathematical Physics 4 (1964) 1-17.  T. Tieleman, G. Hinton, Lecture 6.5 of Neural Networks for Machine Learning
(2012).  D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.  S. J. Reddi, S. Kale, S. Kumar,
"On the Convergence of Adam and Beyond", ICLR 2018.  The conventions and the steps are those of `torch.optim`.

Nothing is hidden and nothing is changed in place, so training is a function that `torch.func` can differentiate (in
the start, in the rate) and lift over many starts or rates with `vmap`.  Weights, gradients and states are trees: a
tensor, or a dict, list or tuple of trees.  The square root has an infinite derivative at 0, which a weight without a
gradient meets at its first step: whoever differentiates through RMSProp, Adam or AMSGrad gives `eps_root`, a constant
inside the root.  `torch.optim` has none, and the default is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad
from torch.utils._pytree import tree_leaves, tree_map

Tree = Any  # a tensor, or a dict, list or tuple of trees


def gaussian_nll(prediction: Tensor, target: Tensor, variance: Tensor | float = 1.0) -> Tensor:
    """Mean negative log-density, in nats, of targets with Gaussian noise around the predictions.

    Args:
        prediction: `(...)`.
        target: `(...)`, the same shape: nothing is broadcast.
        variance: of the noise, positive; a number, or a tensor that broadcasts to the predictions.

    Returns:
        A scalar.  With the variance 1/2 it is the mean squared error plus log(pi) / 2.

    Raises:
        ValueError: shapes that differ.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"prediction and target need one shape, got {tuple(prediction.shape)}, {tuple(target.shape)}")
    variance = torch.as_tensor(variance, dtype=prediction.dtype, device=prediction.device)
    return ((prediction - target) ** 2 / variance + (2 * math.pi * variance).log()).mean() / 2


def categorical_nll(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log-probability, in nats, of labels under the softmax of the logits: the cross-entropy.

    The maximum is taken out of the exponentials, so large logits do not overflow.

    Args:
        logits: `(n, classes)`.
        labels: int64 `(n,)` in 0..classes-1.

    Returns:
        A scalar.

    Raises:
        ValueError: other shapes, or labels that are not integers.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or labels.is_floating_point():
        raise ValueError(
            f"logits (n, classes) and integer labels (n,) are expected, got {tuple(logits.shape)} and "
            f"{labels.dtype} {tuple(labels.shape)}"
        )
    return (logits.logsumexp(1) - logits.gather(1, labels[:, None])[:, 0]).mean()


class Optimizer(NamedTuple):
    """An optimiser is two pure functions.

    Attributes:
        init: from weights to the first state.
        update: from `(gradient, state)` to `(step, next state)`; the step, a tree like the weights, is to be added.
    """

    init: Callable[[Tree], Any]
    update: Callable[[Tree, Any], tuple[Tree, Any]]


class NoState(NamedTuple):
    """Gradient descent remembers nothing."""


class Velocity(NamedTuple):
    """What momentum remembers."""

    velocity: Tree  # m


class MeanSquare(NamedTuple):
    """What RMSProp remembers."""

    square: Tree  # v


class Moments(NamedTuple):
    """What Adam remembers."""

    count: Tensor  # int64 scalar, steps taken
    mean: Tree  # m
    square: Tree  # v


class LargestMoments(NamedTuple):
    """What AMSGrad remembers."""

    count: Tensor  # int64 scalar, steps taken
    mean: Tree  # m
    square: Tree  # v
    largest: Tree  # the largest v so far


def gradient_descent(lr: float | Tensor) -> Optimizer:
    """Against the gradient; stochastic gradient descent (SGD) if the gradient is that of a minibatch.

    Args:
        lr: the rate, as in every optimiser here a number or a tensor to be differentiated or mapped over.

    Raises:
        ValueError: a rate that is a number and not positive and finite.
    """
    _check(lr)
    return Optimizer(lambda weights: NoState(), lambda gradient, state: (tree_map(lambda g: -lr * g, gradient), state))


def momentum(lr: float | Tensor, momentum: float | Tensor = 0.9, nesterov: bool = False) -> Optimizer:
    """Along a velocity: the sum of all gradients, each `momentum` times weaker per step since (Polyak 1964).

    Args:
        lr: the rate.
        momentum: mu in [0, 1).
        nesterov: look one step ahead, in the form of `torch.optim.SGD`.

    Raises:
        ValueError: numbers out of their ranges.
    """
    _check(lr, momentum=momentum)

    def update(gradient: Tree, state: Velocity) -> tuple[Tree, Velocity]:
        velocity = tree_map(lambda m, g: momentum * m + g, state.velocity, gradient)
        along = tree_map(lambda m, g: momentum * m + g, velocity, gradient) if nesterov else velocity
        return tree_map(lambda m: -lr * m, along), Velocity(velocity)

    return Optimizer(lambda weights: Velocity(_zeros(weights)), update)


def rmsprop(lr: float | Tensor, decay: float | Tensor = 0.99, eps: float = 1e-8, eps_root: float = 0.0) -> Optimizer:
    """The gradient over the root of its running mean square, weight by weight (Tieleman and Hinton 2012).

    Args:
        lr: the rate.
        decay: r in [0, 1), called `alpha` in `torch.optim.RMSprop`; the lecture has 0.9.
        eps: added to the root.
        eps_root: added inside the root; positive where the step is differentiated.

    Raises:
        ValueError: numbers out of their ranges.
    """
    _check(lr, eps, eps_root, decay=decay)

    def update(gradient: Tree, state: MeanSquare) -> tuple[Tree, MeanSquare]:
        square = _running(decay, state.square, gradient, power=2)
        step = tree_map(lambda g, v: -lr * g / ((v + eps_root).sqrt() + eps), gradient, square)
        return step, MeanSquare(square)

    return Optimizer(lambda weights: MeanSquare(_zeros(weights)), update)


def adam(
    lr: float | Tensor,
    betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
    eps: float = 1e-8,
    eps_root: float = 0.0,
) -> Optimizer:
    """Running mean of the gradient over the root of its running mean square, both corrected for their start at zero.

    Args:
        lr: the rate: about the length of the first steps, in each weight.
        betas: how much of the mean and of the mean square stays from step to step, in [0, 1).
        eps: added to the root.
        eps_root: added inside the root; positive where the step is differentiated.

    Raises:
        ValueError: numbers out of their ranges.
    """
    _check(lr, eps, eps_root, beta1=betas[0], beta2=betas[1])

    def update(gradient: Tree, state: Moments) -> tuple[Tree, Moments]:
        state = _moments(gradient, state, betas)
        return _adam_step(lr, betas, eps, eps_root, state, state.square), state

    return Optimizer(lambda weights: Moments(_zero(weights), _zeros(weights), _zeros(weights)), update)


def amsgrad(
    lr: float | Tensor,
    betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
    eps: float = 1e-8,
    eps_root: float = 0.0,
) -> Optimizer:
    """Adam that never forgets its largest mean square, so that no rate ever grows (Reddi et al. 2018).

    Arguments and errors are those of `adam`; the step is that of `torch.optim.Adam(amsgrad=True)`.
    """
    _check(lr, eps, eps_root, beta1=betas[0], beta2=betas[1])

    def init(weights: Tree) -> LargestMoments:
        return LargestMoments(_zero(weights), _zeros(weights), _zeros(weights), _zeros(weights))

    def update(gradient: Tree, state: LargestMoments) -> tuple[Tree, LargestMoments]:
        moments = _moments(gradient, state, betas)
        largest = tree_map(torch.maximum, state.largest, moments.square)
        return _adam_step(lr, betas, eps, eps_root, moments, largest), LargestMoments(*moments, largest)

    return Optimizer(init, update)


def apply_step(weights: Tree, step: Tree) -> Tree:
    """The weights after a step: their sum, leaf by leaf."""
    return tree_map(torch.add, weights, step)


def trajectory(
    optimizer: Optimizer, loss: Callable[[Tree, Any], Tensor], weights: Tree, batches: Iterable[Any]
) -> Iterator[Tree]:
    """The weights after each step, one after the other.

    Args:
        optimizer: a pair of functions.
        loss: maps weights and a batch to a scalar.
        weights: the start.
        batches: one per step; `range(steps)` for a loss that ignores them.

    Yields:
        Weights, differentiable in the start, in the batches, and in the optimiser's rate.
    """
    state = optimizer.init(weights)
    for batch in batches:
        step, state = optimizer.update(grad(loss)(weights, batch), state)
        weights = apply_step(weights, step)
        yield weights


def train(optimizer: Optimizer, loss: Callable[[Tree, Any], Tensor], weights: Tree, batches: Iterable[Any]) -> Tree:
    """Training as a map from weights to weights: the end of the `trajectory`, or the start if there are no batches."""
    for after in trajectory(optimizer, loss, weights, batches):
        weights = after
    return weights


def _moments(gradient: Tree, state: Moments | LargestMoments, betas: tuple[float | Tensor, float | Tensor]) -> Moments:
    mean = _running(betas[0], state.mean, gradient, power=1)
    return Moments(state.count + 1, mean, _running(betas[1], state.square, gradient, power=2))


def _adam_step(
    lr: float | Tensor,
    betas: tuple[float | Tensor, float | Tensor],
    eps: float,
    eps_root: float,
    state: Moments,
    square: Tree,
) -> Tree:
    def step(m: Tensor, v: Tensor) -> Tensor:
        first, second = (1 - torch.as_tensor(b, dtype=_precise(m), device=m.device) ** state.count for b in betas)
        return (-lr * (m / first) / ((v / second + eps_root).sqrt() + eps)).to(m.dtype)

    return tree_map(step, state.mean, square)


def _precise(m: Tensor) -> torch.dtype:
    """At least float32: 0.999 is 1 in bfloat16."""
    return torch.promote_types(m.dtype, torch.float32)


def _running(decay: float | Tensor, average: Tree, gradient: Tree, power: int) -> Tree:
    return tree_map(lambda a, g: decay * a + (1 - decay) * g**power, average, gradient)


def _zeros(weights: Tree) -> Tree:
    return tree_map(torch.zeros_like, weights)


def _zero(weights: Tree) -> Tensor:
    return torch.zeros((), dtype=torch.int64, device=tree_leaves(weights)[0].device)


def _check(lr: float | Tensor, eps: float = 0.0, eps_root: float = 0.0, **fractions: float | Tensor) -> None:
    if not isinstance(lr, Tensor) and not 0 < lr < math.inf:
        raise ValueError(f"lr must be positive and finite, got {lr}")
    for name, value in {"eps": eps, "eps_root": eps_root}.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be finite and not negative, got {value}")
    for name, value in fractions.items():
        if not isinstance(value, Tensor) and not 0 <= value < 1:
            raise ValueError(f"{name} must be at least 0 and below 1, got {value}")
