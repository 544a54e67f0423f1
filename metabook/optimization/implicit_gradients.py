"""Meta-gradients without the path: differentiate where an inner loop ends, not how it got there.

A. Rajeswaran, C. Finn, S. Kakade, S. Levine, "Meta-Learning with Implicit Gradients", NeurIPS 2019.  The inner problem
of implicit MAML (iMAML) is pulled to the start phi with strength lambda, so it has a solution

    phi' = argmin over w of  L_support(w) + lambda / 2 * || w - phi ||^2,

at which the gradient vanishes.  The implicit function theorem turns this condition into the Jacobian of phi' with
respect to phi; with H the Hessian of L_support at phi', it gives the meta-gradient

    (I + H / lambda)^-1 grad L_query(phi')        a linear system, solved by conjugate gradients

from products H v alone.  What was computed on the way to phi' is neither kept nor needed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.func import functional_call, vjp
from torch.func import grad as gradient_of

from metabook.episode import Set
from metabook.learner import Learner, task_loss
from metabook.optimization.maml import Weights, check_inner_loop
from metabook.tasks.distribution import check_counts


def conjugate_gradients(product: Callable[[Tensor], Tensor], b: Tensor, steps: int) -> Tensor:
    """Solve `A x = b` for a symmetric positive definite `A` that is known by its products only.

    In exact arithmetic the answer is right after as many steps as `A` has distinct eigenvalues.  Before, the error in
    the norm `sqrt(x' A x)` falls at least as fast as `2 * ((sqrt(k) - 1) / (sqrt(k) + 1)) ** steps`, where k is the
    largest eigenvalue over the smallest.  Nothing branches on data, so it runs under `torch.func.vmap`; steps after
    the exact answer change nothing.  (M. Hestenes and E. Stiefel, "Methods of Conjugate Gradients for Solving Linear
    Systems", 1952.)

    Args:
        product: maps a vector `(d,)` to `A @ vector`.
        b: `(d,)`.
        steps: number of products.

    Returns:
        `(d,)`.  An `A` that is not positive definite raises no error, and gives an answer that means nothing.
    """
    x, residual = torch.zeros_like(b), b
    direction, square = b, b @ b
    for _ in range(steps):
        image = product(direction)
        step = _ratio(square, direction @ image)
        x = x + step * direction
        residual = residual - step * image
        previous, square = square, residual @ residual
        direction = residual + _ratio(square, previous) * direction
    return x


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    return a / torch.where(b == 0, torch.ones_like(b), b)  # b is 0 when nothing is left to do, and then so is a


class ImplicitMAML(Learner):
    """A start that pulls the weights of every task towards itself; its state is the weights solved for one task.

    The gradient is that of the solution.  Where `inner_steps` do not reach it, the gradient is an approximation, and
    nothing warns.  The theorem asks for a smooth network: on the kinks of rectifiers a descent need not settle.
    The support set is a constant: no gradient flows into its inputs.

    Args:
        network: as in `MAML`.
        regularization: strength lambda of the pull.
        inner_lr: inner rate alpha, of descent on the regularised support loss.
        inner_steps: steps of this descent; may be changed between training and evaluation.
        cg_steps: steps of conjugate gradients per meta-gradient.
        loss: `(prediction, y) -> scalar` of the inner and the outer loop.

    Raises:
        ValueError: a regularisation that is not positive, a number of steps of conjugate gradients below one, or what
            `MAML` refuses.
    """

    def __init__(
        self,
        network: nn.Module,
        regularization: float = 1.0,
        inner_lr: float = 0.01,
        inner_steps: int = 16,
        cg_steps: int = 5,
        loss: Callable[[Tensor, Tensor], Tensor] = task_loss,
    ) -> None:
        super().__init__(loss=loss)
        check_inner_loop(network, inner_lr, inner_steps)
        check_counts(cg_steps=cg_steps)
        if regularization <= 0:
            raise ValueError(f"regularization must be positive, got {regularization}; without a pull use MAML")
        self.network = network
        self.regularization, self.inner_lr = regularization, inner_lr
        self.inner_steps, self.cg_steps = inner_steps, cg_steps

    def adapt(self, support: Set) -> Weights:
        """Solve the inner problem, as well as `inner_steps` allows: the weights, by name."""
        start = torch.cat([p.flatten() for p in self.network.parameters()])  # (d,)
        start = start + torch.zeros_like(support.x).sum()  # one per task of a vmap, even if no step tells them apart
        return self._named(_Solution.apply(self, start, *support))

    def predict(self, state: Weights, x: Tensor) -> Tensor:
        """The network with the solved weights: `(queries, *features) -> (queries, outputs)`."""
        return functional_call(self.network, state, (x,))

    def solve(self, start: Tensor, support: Set) -> Tensor:
        """The inner loop, on weights as one vector `(d,)`: descent from the start on the regularised support loss."""
        gradient = gradient_of(lambda w: self._support_loss(w, support))
        weights = start.clone()  # not the start itself, which autograd would not save as a result
        for _ in range(self.inner_steps):
            weights = weights - self.inner_lr * (gradient(weights) + self.regularization * (weights - start))
        return weights

    def implicit_gradient(self, solution: Tensor, support: Set, gradient: Tensor) -> Tensor:
        """Take a gradient at the solution back to the start: `(I + H / lambda)^-1 gradient`, all vectors `(d,)`."""
        hessian = vjp(gradient_of(lambda w: self._support_loss(w, support)), solution)[1]  # v -> H v, H is symmetric
        return conjugate_gradients(lambda v: v + hessian(v)[0] / self.regularization, gradient, self.cg_steps)

    def _support_loss(self, weights: Tensor, support: Set) -> Tensor:
        return self.loss(self.predict(self._named(weights), support.x), support.y)

    def _named(self, weights: Tensor) -> Weights:
        parameters = dict(self.network.named_parameters())
        parts = weights.split([p.numel() for p in parameters.values()])
        return {name: part.view_as(p) for (name, p), part in zip(parameters.items(), parts, strict=True)}


class _Solution(Function):
    """From the start to the solution of the inner problem; backward is the implicit function theorem."""

    generate_vmap_rule = True

    @staticmethod
    def forward(learner: ImplicitMAML, start: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return learner.solve(start, Set(x, y))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.learner, _, x, y = inputs
        ctx.save_for_backward(output, x, y)

    @staticmethod
    def backward(ctx, gradient):
        solution, x, y = ctx.saved_tensors
        return None, ctx.learner.implicit_gradient(solution, Set(x, y), gradient), None, None
