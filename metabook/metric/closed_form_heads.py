"""Closed-form heads: the inner problem is so simple that it is solved, and the solution is differentiated.

*R2-D2.*  L. Bertinetto, J. F. Henriques, P. Torr, A. Vedaldi, "Meta-learning with Differentiable Closed-Form Solvers",
ICLR 2019.  Ridge regression from the embeddings X `(n, d)` to one-hot labels Y `(n, ways)`,

    W = (X'X + lambda I)^-1 X'Y           a d x d system, or by the Woodbury identity
      = X' (XX' + lambda I)^-1 Y          an n x n system: few examples, many features,

after which a query's logits are `scale * x'W + bias`; lambda, scale and bias are meta-parameters.

*MetaOptNet-SVM.*  K. Lee, S. Maji, A. Ravichandran, S. Soatto, "Meta-Learning with Differentiable Convex Optimization",
CVPR 2019.  The multi-class support vector machine of K. Crammer and Y. Singer, "On the Algorithmic Implementation of
Multiclass Kernel-based Vector Machines", JMLR 2 (2001),

    minimise  1/2 sum_k ||w_k||^2 + C sum_n xi_n    with    w_{y_n}.x_n - w_k.x_n >= 1 - [k = y_n] - xi_n,

by its dual in alpha `(n, ways)`, where w_k = sum_n alpha_nk x_n:

    maximise  -1/2 sum_k ||w_k||^2 + sum_n alpha_{n, y_n}
    with      alpha_nk <= C [k = y_n],    sum_k alpha_nk = 0.

How it is differentiated.  An interior-point method finds which alpha lie at their bound.  Those stay there when the
embeddings move a little; the others are free, and with the shifts v of the examples they solve linear equations,

    A z = b    with    z = (free alpha, v),    so that    dz = A^-1 (db - dA z),

which is the implicit function theorem for the optimality conditions.  One more step of Newton's method,
z + A^-1 (b - A z) with z and A^-1 held constant, leaves the value as it is and has this derivative.  Nothing of the
solver's path is kept.  Where an alpha just reaches its bound the solution has a kink, and this is the derivative on
one side of it.  Second derivatives are not provided.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabook.episode import Set
from metabook.learner import Learner

JITTER = 1e-8  # added to a Gram matrix, relative to its mean diagonal: equal examples share their weight
ITERATIONS = 25  # of the interior-point method: 15 solve most problems, the worst conditioned need more
REFINEMENTS = 3  # of the solution for the free alpha; each removes most of the rounding error of the one before


def ridge(x: Tensor, targets: Tensor, regularization: Tensor | float) -> Tensor:
    """The weights that minimise `||x W - targets||^2 + regularization * ||W||^2`, both norms summed over all entries.

    Solves the smaller one of the two systems, in float64 whatever the dtype of `x`.

    Args:
        x: `(examples, features)`.
        targets: `(examples, outputs)`.
        regularization: lambda > 0.

    Returns:
        `(features, outputs)`.
    """
    a, b = x.double(), targets.double()
    penalty = regularization * torch.eye(min(x.shape), dtype=a.dtype, device=x.device)
    if len(a) < a.shape[1]:
        return (a.T @ _solve(a @ a.T + penalty, b)).to(x)
    return _solve(a.T @ a + penalty, a.T @ b).to(x)


def crammer_singer(x: Tensor, y: Tensor, ways: int, C: float = 0.1) -> Tensor:
    """Dual solution of the multi-class support vector machine without bias; its weights are `x.T @ alpha`.

    The work is done in float64 whatever the dtype of `x`.  Where examples are linearly dependent the weights are still
    unique but alpha is not: `JITTER` selects the one that spreads itself evenly.

    Args:
        x: `(examples, features)`.
        y: int64 `(examples,)` in 0..ways-1.
        ways: number of classes; one without examples takes no part.
        C: price of a unit of margin violation.

    Returns:
        alpha `(examples, ways)`, differentiable once with respect to `x`.
    """
    labels = F.one_hot(y, ways).double()  # (n, ways)
    gram = x.double() @ x.double().T
    gram = gram + JITTER * (gram.diagonal().mean() + JITTER) * torch.eye(len(y), dtype=gram.dtype, device=x.device)
    with torch.no_grad():
        alpha, shift, inverse = _optimum(gram.detach(), labels, C)
    residual = labels - gram @ alpha - shift  # where alpha is free, 0 but for rounding; its derivative is not
    step, _ = _solve_blocks(inverse, residual, -alpha.sum(1))
    return (alpha + step).to(x)


def _optimum(gram: Tensor, labels: Tensor, C: float) -> tuple[Tensor, Tensor, Tensor]:
    """Optimal alpha and shift v, and the inverse (see `_inverse`) of the system that the free alpha solve."""
    free = _free(gram, labels, C)
    alpha = torch.where(free, 0, C * labels)  # what is not free is at its bound
    shift = torch.zeros_like(alpha[:, :1])
    used = free.T.to(gram)  # (ways, n)
    inverse = _inverse(used[:, :, None] * gram * used[:, None] + torch.diag_embed(1 - used), free)
    for _ in range(REFINEMENTS):
        step, d_shift = _solve_blocks(inverse, labels - gram @ alpha - shift, -alpha.sum(1))
        alpha, shift = alpha + step, shift + d_shift[:, None]
    return alpha, shift, inverse


def _free(gram: Tensor, labels: Tensor, C: float) -> Tensor:
    """Which alpha `(n, ways)` are below their bound, by the predictor-corrector method of Mehrotra (1992).

    With slack s = C * labels - alpha, multipliers m of the bounds and v of the sums, alpha is optimal if

        gram @ alpha - labels + m + v = 0,    sum_k alpha_nk = 0,    m * s = 0,    m, s >= 0.

    These are Newton's steps on the equations, with m * s aimed at a target that falls to zero, cut short of where an
    m or s would reach it.  Every task takes all the steps, so nothing branches on data.
    """
    used = (labels.sum(0) > 0).expand_as(labels)  # (n, ways), whose class has examples
    start = (1 / gram.diagonal().mean()).clamp(max=C / 2)
    alpha = start * (labels - (used & (labels == 0)) / (used[0].sum() - 1).clamp(min=1))
    slack = torch.where(used, C * labels - alpha, 1)
    multiplier, shift = used.to(gram), torch.zeros_like(labels[:, :1])
    for _ in range(ITERATIONS):
        ratio = multiplier / slack
        inverse = _inverse(gram + torch.diag_embed(ratio.T), used)
        residual, sums = labels - gram @ alpha - multiplier - shift, -alpha.sum(1)
        gap = (multiplier * slack).sum()

        d_alpha, _ = _solve_blocks(inverse, residual + multiplier, sums)  # the target is 0
        d_multiplier = ratio * d_alpha - multiplier
        length = _length(slack, -d_alpha, multiplier, d_multiplier)
        ahead = ((multiplier + length * d_multiplier) * (slack - length * d_alpha)).sum()

        target = (ahead / gap) ** 3 * gap / used.sum() + d_multiplier * d_alpha
        excess = torch.where(used, multiplier - target / slack, 0)
        d_alpha, d_shift = _solve_blocks(inverse, residual + excess, sums)
        d_multiplier = ratio * d_alpha - excess
        length = 0.99 * _length(slack, -d_alpha, multiplier, d_multiplier)
        alpha, slack = alpha + length * d_alpha, slack - length * d_alpha
        multiplier, shift = multiplier + length * d_multiplier, shift + length * d_shift[:, None]
    return used & (slack > C * multiplier)  # a multiplier is in units of the margin, 1; a slack in units of C


def _length(slack: Tensor, d_slack: Tensor, multiplier: Tensor, d_multiplier: Tensor) -> Tensor:
    """The longest step, at most 1, that leaves slack and multiplier at zero or above."""
    value, change = torch.cat([slack, multiplier]), torch.cat([d_slack, d_multiplier])
    return torch.where(change < 0, -value / change, 1).amin().clamp(max=1)


def _inverse(blocks: Tensor, used: Tensor) -> Tensor:
    """Inverse of each class's block `(ways, n, n)`, with zeros in the rows and columns of examples it does not use."""
    used = used.T.to(blocks)  # (ways, n)
    return used[:, :, None] * _solve(blocks, torch.diag_embed(used))


def _solve_blocks(inverse: Tensor, right: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """Solve `block_k a_k + v = right_k` for every class k, with v `(n,)` such that the a_k add up to `sums (n,)`.

    Only v couples the classes, so there are ways + 1 systems of n unknowns in place of one of n * (ways + 1).

    Args:
        inverse: `(ways, n, n)`, from `_inverse`.
        right: `(n, ways)`.
        sums: `(n,)`.

    Returns:
        a `(n, ways)` and v `(n,)`.
    """
    alone = torch.einsum("knm,mk->nk", inverse, right)
    v = _solve(inverse.sum(0), (alone.sum(1) - sums)[:, None])
    return alone - torch.einsum("knm,m->nk", inverse, v[:, 0]), v[:, 0]


def _solve(a: Tensor, b: Tensor) -> Tensor:
    """Solve `a z = b` for positive definite `a (..., n, n)` and `b (..., n, m)`."""
    return torch.cholesky_solve(b, torch.linalg.cholesky_ex(a).L)


class LinearClassifier(NamedTuple):
    """What one task leaves behind."""

    weights: Tensor  # (features, ways)
    present: Tensor  # bool (ways,), which classes had support examples


class R2D2(Learner):
    """Ridge regression to one-hot labels in a learned embedding; its state is the weights.

    The embedding is given a constant feature of 1, as in the authors' code, whose weight is the bias of each class.
    (Their code also divides X and Y by the square root of n, which multiplies lambda by n.)  The meta-parameter `bias`
    shifts all logits alike: the paper has it, but no softmax can tell.

    Args:
        encoder: maps `(n, *features)` to embeddings `(n, d)`.
        ways: the most classes an episode may have.  A class without support examples is never predicted.
        regularization: lambda at the start; it is learned, and stays positive.
        scale: of the logits at the start; learned.  Regression aims at 0 and 1, a small range for a softmax.
        bias: of the logits at the start; learned.

    Raises:
        ValueError: fewer than two ways, or a number that is not finite, or not positive where it must be.
    """

    def __init__(
        self, encoder: nn.Module, ways: int, regularization: float = 1.0, scale: float = 1.0, bias: float = 0.0
    ) -> None:
        _check(regularization=regularization, scale=scale)
        if not math.isfinite(bias):
            raise ValueError(f"bias must be finite, got {bias}")
        super().__init__(ways)
        self.encoder = encoder
        self.log_regularization = nn.Parameter(torch.tensor(math.log(regularization)))
        self.scale, self.bias = nn.Parameter(torch.tensor(float(scale))), nn.Parameter(torch.tensor(float(bias)))

    def adapt(self, support: Set) -> LinearClassifier:
        """The weights `(d + 1, ways)` of one task."""
        targets = F.one_hot(support.y, self.ways)
        x = self._features(support.x)
        return LinearClassifier(ridge(x, targets.to(x), self.log_regularization.exp()), targets.sum(0) > 0)

    def predict(self, state: LinearClassifier, x: Tensor) -> Tensor:
        """Logits `(queries, ways)`; -inf for a class without examples."""
        logits = self.scale * self._features(x) @ state.weights + self.bias
        return torch.where(state.present, logits, -torch.inf)

    def _features(self, x: Tensor) -> Tensor:
        return F.pad(self.encoder(x), (0, 1), value=1.0)


class MetaOptNetSVM(Learner):
    """A multi-class support vector machine in a learned embedding; its state is the weights.

    It is solved to the end, whatever the number of examples.

    Args:
        encoder: maps `(n, *features)` to embeddings `(n, d)`.
        ways: the most classes an episode may have.  A class without support examples is never predicted.
        C: price of a unit of margin violation; 0.1 in the paper.
        scale: of the logits at the start (gamma in the paper); learned.

    Raises:
        ValueError: fewer than two ways, or a number that is not positive and finite.
    """

    def __init__(self, encoder: nn.Module, ways: int, C: float = 0.1, scale: float = 1.0) -> None:
        _check(C=C, scale=scale)
        super().__init__(ways)
        self.encoder, self.C = encoder, C
        self.scale = nn.Parameter(torch.tensor(float(scale)))

    def adapt(self, support: Set) -> LinearClassifier:
        """The weights `(d, ways)` of one task."""
        x = self.encoder(support.x)
        alpha = crammer_singer(x, support.y, self.ways, self.C)
        return LinearClassifier(x.T @ alpha, F.one_hot(support.y, self.ways).sum(0) > 0)

    def predict(self, state: LinearClassifier, x: Tensor) -> Tensor:
        """Logits `(queries, ways)`; -inf for a class without examples."""
        return torch.where(state.present, self.scale * self.encoder(x) @ state.weights, -torch.inf)


def _check(**positive: float) -> None:
    for name, value in positive.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {value}")
