"""An optimiser that is a network, and two ways to train it.

M. Andrychowicz, M. Denil, S. Gomez Colmenarejo, M. W. Hoffman, D. Pfau, T. Schaul, B. Shillingford, N. de Freitas,
"Learning to learn by gradient descent by gradient descent", NeurIPS 2016.  A recurrent network m with weights phi maps
the gradient of an objective f to the step; phi minimises the losses along the way (their section 2):

    step_t, h_{t+1} = m_phi(grad f(theta_t), h_t)            theta_{t+1} = theta_t + step_t
    min over phi of  E_f [ mean over t = 1..T of f(theta_t) ]

An optimiser is the pair of `metabook.basics.losses_and_optimizers`: `init` maps parameters `(tasks, d)` to a state h,
`update` a gradient and a state to a step and the next state.  A learned one is a module whose call is `update`.  The
same small LSTM works on every coordinate of theta, each with a memory of its own.  `TruncatedBackprop` trains it as
they do: by segments of the unroll, each of which takes its beginning as a constant.  That gradient is biased.

P. Vicol, L. Metz, J. Sohl-Dickstein, "Unbiased Gradient Estimation in Unrolled Computation Graphs with Persistent
Evolution Strategies", ICML 2021.  PES perturbs phi by fresh noise in every segment, remembers for each particle the
sum xi of its noises since the unroll began, and estimates the gradient of segment k's loss L_k from values alone:

    xi_k = noise_1 + ... + noise_k              gradient ~ mean over particles of xi_k L_k / sigma^2
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils._pytree import tree_map

from metabook.networks.recurrent import LSTMCell
from metabook.tasks.distribution import check_counts

State = Any  # what an optimiser remembers of one unroll: tensors, in tuples


class Problems(NamedTuple):
    """A batch of problems, one per task: what to minimise, and from where."""

    objective: Callable[[Tensor], Tensor]  # (tasks, d) -> (tasks,)
    start: Tensor  # (tasks, d)


class Unrolled(NamedTuple):
    """Some steps of an optimiser: the losses after each, and where it stands."""

    losses: Tensor  # (steps, tasks)
    theta: Tensor  # (tasks, d)
    state: State


def unroll(
    update: Callable[[Tensor, State], tuple[Tensor, State]],
    objective: Callable[[Tensor], Tensor],
    theta: Tensor,
    state: State,
    steps: int,
    second_order: bool = False,
) -> Unrolled:
    """Let an optimiser work for some steps.

    Args:
        update: of the optimiser, `(gradient, state) -> (step, next state)`.
        objective: `(tasks, d) -> (tasks,)`.
        theta: `(tasks, d)`, where to begin.
        state: the optimiser's state there; `optimizer.init(theta)` at the beginning.
        steps: number of steps.
        second_order: differentiate through the gradients that the optimiser sees.  Without it, as in the paper, they
            are constants, and no second derivatives of the objective are needed.

    Returns:
        The losses after every step and the new parameters and state, all differentiable in the optimiser's weights.
    """
    losses = []
    for _ in range(steps):
        gradient = grad(lambda theta: objective(theta).sum())(theta if second_order else theta.detach())
        step, state = update(gradient, state)
        theta = theta + step
        losses.append(objective(theta))
    return Unrolled(torch.stack(losses), theta, state)


def preprocess(gradient: Tensor, p: float = 10.0) -> Tensor:
    """Size and sign of a gradient as two numbers of similar magnitude: `(...)` to `(..., 2)`.

    Andrychowicz et al. (2016), appendix A: (log(abs(g)) / p, sign(g)) where abs(g) >= e^-p, and (-1, e^p g) below.
    """
    large = gradient.abs() >= math.exp(-p)
    size = torch.where(large, gradient, torch.ones_like(gradient)).abs().log() / p
    return torch.stack(
        [torch.where(large, size, -torch.ones_like(gradient)), (math.exp(p) * gradient).clamp(-1, 1)], dim=-1
    )


class LearnedOptimizer(nn.Module):
    """An LSTM that reads the gradient of one coordinate and answers with its step.

    All coordinates share the weights, and each has its own memory: the network does not know which coordinate it works
    on, nor how many there are.

    Args:
        hidden: units per layer; the paper has 20.
        layers: the paper has 2.
        scale: what the output is multiplied by.
        p: of `preprocess`.
        relative: take the output as a rate, to be multiplied with the gradient, instead of the step itself.  A constant
            output is then gradient descent.

    Raises:
        ValueError: `hidden` or `layers` below one.
    """

    def __init__(
        self, hidden: int = 20, layers: int = 2, scale: float = 0.1, p: float = 10.0, relative: bool = False
    ) -> None:
        check_counts(hidden=hidden, layers=layers)
        super().__init__()
        self.cells = nn.ModuleList(LSTMCell(n, hidden) for n in [2, *[hidden] * (layers - 1)])
        self.output = nn.Linear(hidden, 1)
        self.hidden, self.scale, self.p, self.relative = hidden, scale, p, relative

    def init(self, theta: Tensor) -> State:
        """Zeros: hidden and cell state of each layer, `(tasks, d, hidden)`."""
        zeros = theta.new_zeros((*theta.shape, self.hidden))
        return [(zeros, zeros) for _ in self.cells]

    def update(self, gradient: Tensor, state: State) -> tuple[Tensor, State]:
        """The same as a call, under the name that it has in every optimiser."""
        return self(gradient, state)

    def forward(self, gradient: Tensor, state: State) -> tuple[Tensor, State]:
        """One step of the LSTM for every coordinate of every task."""
        x, after = preprocess(gradient, self.p), []  # (tasks, d, 2)
        for cell, memory in zip(self.cells, state, strict=True):
            x, c = cell(x, memory)  # each (tasks, d, hidden)
            after.append((x, c))
        output = self.scale * self.output(x)[..., 0]
        return output * gradient if self.relative else output, after


class _Segments:
    """Unrolls of `horizon` steps in segments of `truncation`: fresh problems whenever an unroll is complete."""

    def __init__(
        self, optimizer: nn.Module, sample: Callable[[], Problems], horizon: int, truncation: int | None
    ) -> None:
        truncation = horizon if truncation is None else truncation
        check_counts(horizon=horizon, truncation=truncation)
        if horizon % truncation:
            raise ValueError(f"truncation must divide the horizon of {horizon} steps evenly, got {truncation}")
        self.optimizer, self.sample, self.horizon, self.truncation = optimizer, sample, horizon, truncation
        self._segment = 0

    def _next(self) -> bool:
        """Count a segment; True if it is the first of an unroll."""
        first = self._segment == 0
        self._segment = (self._segment + 1) % (self.horizon // self.truncation)
        return first


class TruncatedBackprop(_Segments):
    """The meta-gradient by backpropagation through one segment of the unroll at a time.

    Averaged over the segments of an unroll it would be the gradient of the mean loss over the horizon, but for what a
    segment takes as a constant: its beginning, and, without `second_order`, the gradients that the optimiser saw.

    Args:
        optimizer: a module with `init`, whose call is its `update`; the gradient goes to its parameters.
        sample: draws a batch of problems.
        horizon: steps of an unroll.
        truncation: steps of a segment, a divisor of the horizon; the whole horizon by default.
        second_order: as in `unroll`.

    Raises:
        ValueError: counts below one, or a truncation that does not divide the horizon.
    """

    def __init__(
        self,
        optimizer: nn.Module,
        sample: Callable[[], Problems],
        horizon: int,
        truncation: int | None = None,
        second_order: bool = False,
    ) -> None:
        super().__init__(optimizer, sample, horizon, truncation)
        self.second_order = second_order

    def backward(self) -> Tensor:
        """Unroll the next segment and add its gradient to `.grad`; the mean loss of the segment."""
        if self._next():
            self._objective, self._theta = self.sample()
            self._state = self.optimizer.init(self._theta)
        losses, theta, state = unroll(
            self.optimizer, self._objective, self._theta, self._state, self.truncation, self.second_order
        )
        losses.mean().backward()
        self._theta, self._state = tree_map(_constant, (theta, state))
        return losses.mean().detach()


def _constant(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


class PersistentES(_Segments):
    """The meta-gradient by persistent evolution strategies (PES): from values of the loss, one segment at a time.

    Each particle is a perturbed copy of the optimiser, and they come in pairs with opposite noise.  All work on the
    same problems.  The estimate is unbiased for the loss smoothed by the noise, whatever the truncation; nothing is
    differentiated, so no memory grows with the segment.

    Args:
        optimizer, sample, horizon, truncation: as in `TruncatedBackprop`.
        sigma: standard deviation of the noise.
        pairs: pairs of particles.
        seed: of the noise.
        persistent: remember the noise of earlier segments.  Without it these are the evolution strategies of each
            segment alone, biased like truncated backpropagation.

    Raises:
        ValueError: as in `TruncatedBackprop`, or a sigma that is not positive.
    """

    def __init__(
        self,
        optimizer: nn.Module,
        sample: Callable[[], Problems],
        horizon: int,
        truncation: int | None = None,
        sigma: float = 0.01,
        pairs: int = 8,
        seed: int = 0,
        persistent: bool = True,
    ) -> None:
        super().__init__(optimizer, sample, horizon, truncation)
        check_counts(pairs=pairs)
        if not sigma > 0:
            raise ValueError(f"sigma is the standard deviation of the noise and must be positive, got {sigma}")
        self.sigma, self.pairs, self.persistent = sigma, pairs, persistent
        self._generator = torch.Generator(next(optimizer.parameters()).device).manual_seed(seed)

    @torch.no_grad()
    def backward(self) -> Tensor:
        """Unroll the next segment with every particle and add the estimate to `.grad`; the mean loss of all."""
        first, weights = self._next(), dict(self.optimizer.named_parameters())
        if first:
            self._objective, theta = self.sample()
            self._theta, self._state = tree_map(self._copies, (theta, self.optimizer.init(theta)))
        noise = {name: self._noise(w) for name, w in weights.items()}  # (particles, *shape)
        if first or not self.persistent:
            self._xi = noise
        else:
            self._xi = {name: xi + noise[name] for name, xi in self._xi.items()}
        perturbed = {name: w + noise[name] for name, w in weights.items()}
        loss, self._theta, self._state = vmap(self._particle)(perturbed, self._theta, self._state)
        for name, w in weights.items():
            estimate = torch.tensordot(loss, self._xi[name], dims=1) / (2 * self.pairs * self.sigma**2)
            w.grad = estimate if w.grad is None else w.grad + estimate
        return loss.mean()

    def _particle(self, weights: dict[str, Tensor], theta: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        def perturbed(gradient: Tensor, state: State) -> tuple[Tensor, State]:
            return functional_call(self.optimizer, weights, (gradient, state))

        losses, theta, state = unroll(perturbed, self._objective, theta, state, self.truncation)
        return losses.mean(), theta, state

    def _noise(self, w: Tensor) -> Tensor:
        half = self.sigma * torch.randn(
            (self.pairs, *w.shape), generator=self._generator, device=w.device, dtype=w.dtype
        )
        return torch.cat([half, -half])

    def _copies(self, value: Any) -> Any:
        return value.expand(2 * self.pairs, *value.shape) if isinstance(value, Tensor) else value
