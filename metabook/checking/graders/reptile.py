"""Graders of the chapter optimization/reptile."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metabook.checking._examples import bowl
from metabook.checking.compare import one_of, same_function

Pair = tuple[float, float]


def _coefficients(maml: Callable[[int], Pair], fomaml: Callable[[int], Pair], reptile: Callable[[int], Pair]):
    """A function from the number of minibatches to the two coefficients of each method."""
    return lambda k: {"MAML": maml(k), "FOMAML": fomaml(k), "Reptile": reptile(k)}


def _maml(k: int) -> Pair:
    return 1, 2 * (k - 1)


def _fomaml(k: int) -> Pair:
    return 1, k - 1


def _reptile(k: int) -> Pair:
    return k, k * (k - 1) / 2


def _update(start: Tensor, centre: Tensor, hessian: Tensor, inner_lr: float, steps: int) -> Tensor:
    """(I - P^steps) (start - centre), with P = I - inner_lr H."""
    identity = torch.eye(len(start), dtype=start.dtype)
    return (identity - torch.linalg.matrix_power(identity - inner_lr * hessian, steps)) @ (start - centre)


WRONG = {
    "half_rate": [
        ("same", "At rate zero the two gradients are equal, so the angle must depend on the rate."),
        ("quarter", "That would be a difference of order two. Which power of the rate stands before the dropped term?"),
    ],
    "coefficients": [
        (
            _coefficients(_maml, _fomaml, lambda k: (k, k - 1)),
            "In Reptile's sum every gradient carries the steps before it: count the pairs of an earlier and a later "
            "minibatch.",
        ),
        (
            _coefficients(_maml, _fomaml, lambda k: (1, k * (k - 1) / 2)),
            "How many gradients does Reptile add up? Each brings its own AvgGrad.",
        ),
        (
            _coefficients(_maml, _fomaml, lambda k: (k, k * (k - 1))),
            "Each pair of minibatches is counted twice here. Only the later gradient of a pair feels the earlier step.",
        ),
        (
            _coefficients(_fomaml, _fomaml, _reptile),
            "This gives MAML and FOMAML the same terms. Which term does the Jacobian of the steps add?",
        ),
        (
            _coefficients(lambda k: (1, 2), lambda k: (1, 1), lambda k: (2, 1)),
            "These are right for two minibatches and do not depend on `k`.",
        ),
        (
            _coefficients(lambda k: (1, 2 * k), lambda k: (1, k), _reptile),
            "With k minibatches the last one is only looked at: how many steps were taken before it?",
        ),
    ],
    "closed_form": [
        (
            lambda start, centre, hessian, inner_lr, steps: -_update(start, centre, hessian, inner_lr, steps),
            "This is the way from the start to the trained weights. A gradient points the other way: start - trained.",
        ),
        (
            lambda start, centre, hessian, inner_lr, steps: _update(start, centre, hessian, inner_lr, 1),
            "This takes one step whatever `steps` says.",
        ),
        (
            lambda start, centre, hessian, inner_lr, steps: (
                start - centre - _update(start, centre, hessian, inner_lr, steps)
            ),
            "This is what is left of the distance after the steps. How far did they go?",
        ),
        (
            lambda start, centre, hessian, inner_lr, steps: steps * _update(start, centre, hessian, inner_lr, 1),
            "This takes every step with the gradient of the start. The gradient shrinks on the way.",
        ),
    ],
}


def half_rate(answer: Any) -> None:
    """what FOMAML drops is of first order in the rate, and so is the angle."""
    one_of(answer, "half", dict(WRONG["half_rate"]))


def coefficients(answer: Any) -> None:
    """MAML counts each of the k - 1 steps twice, FOMAML once, and Reptile has k (k - 1) / 2 pairs of minibatches."""
    same_function(
        answer, _coefficients(_maml, _fomaml, _reptile), [(k,) for k in (2, 3, 5, 8)], wrong=WRONG["coefficients"]
    )


def closed_form(answer: Any) -> None:
    """(I - P^k) (start - centre): the way that k steps have gone, backwards."""
    cases = [(*bowl(n, seed=n), lr, steps) for n, lr, steps in ((2, 0.3, 2), (3, 0.2, 3), (4, 0.1, 5), (2, 0.5, 1))]
    same_function(answer, _update, cases, wrong=WRONG["closed_form"])
