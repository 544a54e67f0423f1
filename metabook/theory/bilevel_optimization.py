"""How do you differentiate through learning?  Seven hypergradients of one bilevel problem.

The weights theta are learned on an inner loss that takes the meta-parameters phi as given; phi is judged by an outer
loss at what was learned.  The inner loop is gradient descent, theta <- theta - alpha * d inner / d theta, and

    F(phi) = outer(theta_t(phi), phi)                      after t steps, or at the solution theta*

has the gradient (the hypergradient)  dF = d_phi outer + J' d_theta outer,  with the Jacobian J of theta by phi.  With
A = d_theta d_theta inner, B = d_phi d_theta inner (one column for each meta-parameter) and g = d_theta outer:

    along the path        J <- (I - alpha A) J - alpha B                                      forward, or backwards
    its last K steps      the same, from J = 0                                                truncated
    none of them          J = the derivative of the start                                     first-order
    at the solution       J = -A^-1 B                       so   -B' A^-1 g                   implicit
    by a series           A^-1 ~ alpha * sum over j < K of (I - alpha A)^j                    Neumann
    from outside          (F(phi + width e) - F(phi - width e)) / (2 width)                   finite differences

Forward and reverse mode: L. Franceschi, M. Donini, P. Frasconi, M. Pontil, "Forward and Reverse Gradient-Based
Hyperparameter Optimization", ICML 2017, after J. Domke, "Generic Methods for Optimization-Based Modeling", AISTATS
2012, and D. Maclaurin, D. Duvenaud, R. Adams, "Gradient-based Hyperparameter Optimization through Reversible
Learning", ICML 2015.  Truncated: A. Shaban, C.-A. Cheng, N. Hatch, B. Boots, "Truncated Back-propagation for Bilevel
Optimization", AISTATS 2019.  Implicit, by conjugate gradients: F. Pedregosa, "Hyperparameter optimization with
approximate gradient", ICML 2016.  Neumann: J. Lorraine, P. Vicol, D. Duvenaud, "Optimizing Millions of Hyperparameters
by Implicit Differentiation", AISTATS 2020.

All functions share their first six arguments, and weights and meta-parameters are vectors:

    inner_loss, outer_loss   `(weights (d,), phi (m,)) -> scalar`
    phi                      `(m,)`, where the hypergradient is taken
    start                    `phi -> weights (d,)`, where the inner loop begins: a constant, or phi itself as in MAML
    steps, lr                of gradient descent on the inner loss; the rate is alpha

and return the hypergradient `(m,)`.  Independent problems can share a call: let the losses be sums over them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, jacrev, vmap

from metabook.optimization.implicit_gradients import conjugate_gradients

Loss = Callable[[Tensor, Tensor], Tensor]
Start = Callable[[Tensor], Tensor]


def inner_loop(inner_loss: Loss, phi: Tensor, start: Start, steps: int, lr: float) -> Tensor:
    """Gradient descent on the inner loss: the weights `(d,)` after `steps` steps, as a constant.

    Raises:
        ValueError: a negative number of steps, a rate that is not positive, or a `phi` or start that is no vector.
    """
    phi, weights = _enter(phi, start, steps, lr)
    return _descend(inner_loss, weights.detach(), phi.detach(), steps, lr, keep=False).detach()


def unrolled(inner_loss: Loss, outer_loss: Loss, phi: Tensor, start: Start, steps: int, lr: float) -> Tensor:
    """Reverse mode: back through every step.

    The exact gradient of what `steps` steps compute.  Keeps every step, and does about the work of a few inner loops
    for any number of meta-parameters.
    """
    return truncated(inner_loss, outer_loss, phi, start, steps, lr, last=steps)


def forward_mode(inner_loss: Loss, outer_loss: Loss, phi: Tensor, start: Start, steps: int, lr: float) -> Tensor:
    """Forward mode: the Jacobian walks along with the weights.

    The same gradient as `unrolled`.  Keeps nothing but the Jacobian `(m, d)`, and does the work of an inner loop for
    every meta-parameter.
    """
    phi, weights = _enter(phi, start, steps, lr)
    phi, weights = phi.detach(), weights.detach()
    directions = torch.eye(len(phi), dtype=phi.dtype, device=phi.device)  # one row for each meta-parameter
    jacobian = jacrev(start)(phi).mT  # (m, d)

    def push(j: Tensor, e: Tensor, weights: Tensor) -> Tensor:
        """A j + B e, as the gradient of a slope: the order of two derivatives does not matter."""

        def slope(weights: Tensor) -> Tensor:
            by_weights, by_phi = grad(inner_loss, argnums=(0, 1))(weights, phi)
            return by_weights @ j + by_phi @ e

        return grad(slope)(weights)

    for _ in range(steps):
        jacobian = jacobian - lr * vmap(push, (0, 0, None))(jacobian, directions, weights)
        weights = weights - lr * grad(inner_loss)(weights, phi)
    by_weights, by_phi = grad(outer_loss, argnums=(0, 1))(weights, phi)
    return by_phi + jacobian @ by_weights


@torch.enable_grad()
def truncated(
    inner_loss: Loss, outer_loss: Loss, phi: Tensor, start: Start, steps: int, lr: float, last: int
) -> Tensor:
    """Reverse mode through the last `last` steps only; what was before counts as a constant.

    With a start that does not depend on phi, the inner loss mu-strongly convex and alpha at most one over its largest
    curvature, the error is at most (1 - alpha mu)^last times the norms of B and of g, over mu.  Keeps `last` steps.

    Raises:
        ValueError: `last` outside 0..steps, or what `inner_loop` refuses.
    """
    phi, weights = _enter(phi, start, steps, lr)
    if not 0 <= last <= steps:
        raise ValueError(f"last must lie in 0..steps = 0..{steps}, got {last}")
    if last < steps:
        weights = _descend(inner_loss, weights.detach(), phi.detach(), steps - last, lr, keep=False).detach()
    weights = _descend(inner_loss, weights, phi, last, lr, keep=True)
    return _gradients(outer_loss(weights, phi), phi)[0]


@torch.enable_grad()
def first_order(inner_loss: Loss, outer_loss: Loss, phi: Tensor, start: Start, steps: int, lr: float) -> Tensor:
    """Every inner gradient counts as a constant: no second derivative is taken.

    What is left is the dependence of the outer loss on phi and, where the start depends on phi, the start's own
    derivative: first-order MAML for `start = phi`, and for a fixed start the Neumann series without any term.
    """
    phi, begin = _enter(phi, start, steps, lr)
    end = _descend(inner_loss, begin.detach(), phi.detach(), steps, lr, keep=False)
    return _gradients(outer_loss(begin + (end - begin).detach(), phi), phi)[0]


def implicit(
    inner_loss: Loss, outer_loss: Loss, phi: Tensor, start: Start, steps: int, lr: float, products: int
) -> Tensor:
    """Implicit function theorem where the inner loop ends, by `products` steps of conjugate gradients.

    Keeps nothing of the path, which has to end at a minimum with a positive definite A; nothing warns if it does not.
    The start is forgotten: if only the start depends on phi, the answer is zero.
    """

    def solve(product: Callable[[Tensor], Tensor], g: Tensor) -> Tensor:
        return conjugate_gradients(product, g, products)

    _check_count("products", products)
    return _at_the_end(inner_loss, outer_loss, phi, start, steps, lr, solve)


def neumann(inner_loss: Loss, outer_loss: Loss, phi: Tensor, start: Start, steps: int, lr: float, terms: int) -> Tensor:
    """Implicit function theorem, with A^-1 replaced by `terms` terms of its Neumann series at the rate `lr`.

    At a solution it is `truncated` with `last = terms`, and keeps nothing of the path.
    """

    def solve(product: Callable[[Tensor], Tensor], g: Tensor) -> Tensor:
        total, term = torch.zeros_like(g), g
        for _ in range(terms):
            total = total + lr * term
            term = term - lr * product(term)
        return total

    _check_count("terms", terms)
    return _at_the_end(inner_loss, outer_loss, phi, start, steps, lr, solve)


def finite_differences(
    inner_loss: Loss, outer_loss: Loss, phi: Tensor, start: Start, steps: int, lr: float, width: float
) -> Tensor:
    """Central differences: two inner loops for each meta-parameter, and no derivative of the inner loop.

    Raises:
        ValueError: a width that is not positive, or what `inner_loop` refuses.
    """
    if not width > 0:
        raise ValueError(f"width must be positive, got {width}")

    def objective(phi: Tensor) -> Tensor:
        return outer_loss(inner_loop(inner_loss, phi, start, steps, lr), phi).detach()

    shifts = width * torch.eye(len(phi), dtype=phi.dtype, device=phi.device)
    return torch.stack([(objective(phi + s) - objective(phi - s)) / (2 * width) for s in shifts])


@torch.enable_grad()
def _at_the_end(
    inner_loss: Loss,
    outer_loss: Loss,
    phi: Tensor,
    start: Start,
    steps: int,
    lr: float,
    solve: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor],
) -> Tensor:
    """d_phi outer - B' v at the end of the inner loop, where `solve(product with A, g)` is v."""
    weights = inner_loop(inner_loss, phi, start, steps, lr).requires_grad_()
    phi = phi.detach().requires_grad_()
    g, by_phi = _gradients(outer_loss(weights, phi), weights, phi)
    slope = _gradients(inner_loss(weights, phi), weights, create_graph=True)[0]
    v = solve(lambda v: _gradients(slope, weights, along=v)[0], g)  # A v
    return by_phi - _gradients(slope, phi, along=v)[0]  # B' v


@torch.enable_grad()
def _descend(inner_loss: Loss, weights: Tensor, phi: Tensor, steps: int, lr: float, keep: bool) -> Tensor:
    """Gradient descent; `keep` it differentiable, or let go of each step."""
    for _ in range(steps):
        if not weights.requires_grad:
            weights = weights.detach().requires_grad_()
        slope = _gradients(inner_loss(weights, phi), weights, create_graph=keep)[0]
        weights = weights - lr * slope if keep else weights.detach() - lr * slope
    return weights


def _gradients(value: Tensor, *inputs: Tensor, along: Tensor | None = None, create_graph: bool = False):
    """Of a scalar, or of `value . along`; zero for what it does not depend on."""
    if not value.requires_grad:
        return tuple(torch.zeros_like(x) for x in inputs)
    return torch.autograd.grad(
        value, inputs, along, create_graph=create_graph, retain_graph=True if along is not None else None,
        allow_unused=True, materialize_grads=True,
    )  # fmt: skip


@torch.enable_grad()
def _enter(phi: Tensor, start: Start, steps: int, lr: float) -> tuple[Tensor, Tensor]:
    """Meta-parameters that record, and the weights that start from them."""
    _check_count("steps", steps)
    if not lr > 0:
        raise ValueError(f"lr must be positive, got {lr}")
    phi = phi.detach().requires_grad_()
    weights = start(phi).clone()  # never phi itself, whose gradient would mix what comes by either way
    if phi.ndim != 1 or weights.ndim != 1:
        shapes = f"{tuple(phi.shape)} and {tuple(weights.shape)}"
        raise ValueError(f"phi and start(phi) must be vectors, got shapes {shapes}; flatten them")
    return phi, weights


def _check_count(name: str, count: int) -> None:
    if count < 0:
        raise ValueError(f"{name} cannot be negative, got {count}")
