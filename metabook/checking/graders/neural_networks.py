"""Graders of the chapter basics/neural_networks."""

from __future__ import annotations

from typing import Any

import numpy as np

from metabook.basics.neural_networks import Array
from metabook.checking.compare import Hint, in_range, same_function

_FIRST = np.random.default_rng(7).normal(size=(2, 8))  # the weights of the exercise `dead`
_BITS = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])


def _gradients(x, y, W1, b1, W2, b2, *, mask=True, count=None, factor=2.0, bias=np.sum):
    u = x @ W1 + b1
    h = np.maximum(u, 0.0)
    g = factor * (h @ W2 + b2 - y) / (count(y) if count else y.size)
    g_u = (g @ W2.T) * (u > 0) if mask else g @ W2.T
    return x.T @ g_u, bias(g_u, 0), h.T @ g, bias(g, 0)


def _sigmoid(a: Array) -> Array:
    s = 1 / (1 + np.exp(-a.value))
    return Array(s, (a, lambda g: g * s * (1 - s)))


def _forgets_what_arrives(a: Array) -> Array:
    s = 1 / (1 + np.exp(-a.value))
    return Array(s, (a, lambda g: s * (1 - s)))


def _slope_of_tanh(a: Array) -> Array:
    s = 1 / (1 + np.exp(-a.value))
    return Array(s, (a, lambda g: g * (1 - s * s)))


def _value_for_slope(a: Array) -> Array:
    s = 1 / (1 + np.exp(-a.value))
    return Array(s, (a, lambda g: g * s))


WRONG = {
    "pieces": [
        (64, "One unit alone makes two pieces. How many do n units make?"),
        (12, "Those are the units of the deep network. In one layer a unit adds one bend."),
        (32, "Two units make a tent, but a tent of a tent needs a second layer."),
        (6, "In one layer a unit adds one bend, no more."),
    ],
    "xor": [
        ((np.ones((2, 2)), np.zeros(2), np.ones((2, 1)), np.zeros(1)), "for the input (0, 1) the network answers 2"),
        (
            (np.ones((2, 2)), np.array([0.0, -1.0]), np.array([[1.0], [-1.0]]), np.zeros(1)),
            "for the input (1, 1) the network answers 1",
        ),
        ((np.ones((2, 2)), np.zeros(1), np.ones((2, 1)), np.zeros(1)), "b1 has the shape (1,), expected (2,)"),
        ((np.ones((2, 2)), np.ones((2, 1))), "four arrays are asked for"),
    ],
    "sigmoid": [
        (_forgets_what_arrives, "The rule leaves out what has arrived from the nodes after it."),
        (_slope_of_tanh, "That is the slope of tanh, written with its value."),
        (_value_for_slope, "Close: where the sigmoid is near 1 it is flat, and your slope is largest there."),
        (lambda a: Array(_sigmoid(a).value), "The value is right, but the node does not know its operand."),
        (lambda a: a.tanh(), "the value is not the sigmoid"),
    ],
    "backward": [
        (
            lambda *given: _gradients(*given, mask=False),
            "The gradient passes through hinges that were at 0. What is the slope there?",
        ),
        (
            lambda *given: _gradients(*given, count=lambda y: 1),
            "That is the gradient of the sum of the squared errors. The loss is their mean.",
        ),
        (
            lambda *given: _gradients(*given, count=len),
            "You divide by the number of examples. The mean is over all entries of y.",
        ),
        (lambda *given: _gradients(*given, factor=1.0), "Half of it is missing: what is the derivative of a square?"),
        (
            lambda *given: _gradients(*given, bias=np.mean),
            "A bias is used once by every example; do its shares add up, or are they averaged?",
        ),
    ],
    "dead": [
        (np.zeros(8), "of 8 units are alive somewhere in the square"),
        (-np.abs(_FIRST).max(0), "Both coordinates of an input can be large at once"),
        (np.full(8, -50.0), "none below -10"),
        (np.full(7, -5.0), "eight biases are asked for"),
    ],
}


def pieces(answer: Any) -> None:
    """n units in one layer bend a line n times at most, so they draw n + 1 pieces."""
    for mistake, hint in WRONG["pieces"]:
        if isinstance(answer, (int, float)) and answer == mistake:
            raise Hint(hint)
    in_range(answer, 63, 63, below="With so few bends there are fewer pieces.", above="Fewer will do.")


def xor(answer: Any) -> None:
    """two hinges compute the exclusive or, which no affine map can."""
    if not isinstance(answer, (tuple, list)) or len(answer) != 4:
        raise Hint("four arrays are asked for, (W1, b1, W2, b2).")
    try:
        arrays = [np.asarray(part, dtype=float) for part in answer]
    except (TypeError, ValueError):
        raise Hint("the weights should be made of numbers.") from None
    for name, part, shape in zip(("W1", "b1", "W2", "b2"), arrays, ((2, 2), (2,), (2, 1), (1,)), strict=True):
        if part.shape != shape:
            raise Hint(f"{name} has the shape {part.shape}, expected {shape}.")
    W1, b1, W2, b2 = arrays
    answers = (np.maximum(_BITS @ W1 + b1, 0) @ W2 + b2)[:, 0]
    for bits, given, right in zip(_BITS.astype(int), answers, (0, 1, 1, 0), strict=True):
        if not abs(given - right) < 1e-6:
            raise Hint(f"for the input ({bits[0]}, {bits[1]}) the network answers {given:.4g}, not {right}.")


def sigmoid(answer: Any) -> None:
    """the derivative of the sigmoid is s (1 - s), times the adjoint that arrives."""
    if not callable(answer):
        raise Hint(f"a function is asked for, this is a {type(answer).__name__}.")
    value, weight = np.random.default_rng(0).normal(size=(2, 3, 4))

    def run(function: Any) -> tuple[Any, np.ndarray]:
        a = Array(value)
        result = function(a)
        if isinstance(result, Array) and result.shape == a.shape:
            (result * weight).sum().backward()
        return result, a.grad

    try:
        result, gradient = run(answer)
    except Exception as error:
        raise Hint(f"called with an Array of shape (3, 4) it raised {type(error).__name__}: {error}") from None
    if not isinstance(result, Array):
        raise Hint(f"it returned a {type(result).__name__}, and the engine needs an Array.")
    right, right_gradient = run(_sigmoid)
    if result.shape != right.shape or not np.allclose(result.value, right.value):
        raise Hint("the value is not the sigmoid of the input yet.")
    if np.allclose(gradient, right_gradient):
        if [operand for operand, _ in result.operands if not operand.operands] and len(result.operands) == 1:
            return
        raise Hint("it is right, but made of several operations; one node with one rule is asked for.")
    for mistake, hint in WRONG["sigmoid"]:
        wrong, wrong_gradient = run(mistake)
        if np.allclose(gradient, wrong_gradient) and np.allclose(result.value, wrong.value):
            raise Hint(hint)
    raise Hint("the value is right, its gradient is not yet; compare with a finite difference.")


def backward(answer: Any) -> None:
    """backward by hand: mean square, affine, hinge, affine, each a product with what arrives."""
    rng = np.random.default_rng(0)
    cases = [
        tuple(rng.normal(size=shape) for shape in ((n, i), (n, o), (i, h), (h,), (h, o), (o,)))
        for n, i, h, o in ((7, 3, 5, 2), (4, 2, 6, 1))
    ]
    same_function(answer, _gradients, cases, wrong=WRONG["backward"])


def dead(answer: Any) -> None:
    """a unit whose bias is below minus the largest weighted sum is 0 for every input, and gets no gradient."""
    try:
        biases = np.asarray(answer, dtype=float)
    except (TypeError, ValueError):
        raise Hint("the biases should be made of numbers.") from None
    if biases.shape != (8,):
        raise Hint(f"eight biases are asked for, of shape (8,), got {biases.shape}.")
    if not (biases >= -10).all():
        raise Hint("none below -10, please: it can be done with less.")
    largest = np.abs(_FIRST).sum(0) + biases
    alive = int((largest > 1e-12).sum())
    if alive and np.allclose(biases, -np.abs(_FIRST).max(0)):
        raise Hint("Both coordinates of an input can be large at once: look at the corners of the square.")
    if alive:
        raise Hint(f"{alive} of 8 units are alive somewhere in the square. Where is a weighted sum largest?")
