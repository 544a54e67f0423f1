"""Reverse-mode automatic differentiation over numpy arrays; at most 100 lines, this text and blank lines aside.

S. Linnainmaa, "Taylor expansion of the accumulated rounding error", BIT 16 (1976); for networks D. E. Rumelhart,
G. E. Hinton and R. J. Williams, "Learning representations by back-propagating errors", Nature 323 (1986).

An expression is a graph.  A node v holds its value and, for each operand u, a rule that takes the adjoint dL/dv to
this edge's share of dL/du, by a product with the Jacobian dv/du that never forms it:

    dL/du = sum over the nodes v that use u of (dv/du)' dL/dv.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

Rule = Callable[[np.ndarray], np.ndarray]  # adjoint of a node -> share of an operand's, copies not yet summed


class Array:
    """A float64 array that remembers its `operands`, pairs (Array, rule); `backward` adds to the `grad` of all."""

    __array_ufunc__ = None  # numpy leaves `ndarray + Array` to `Array.__radd__`

    def __init__(self, value: ArrayLike, *operands: tuple[Array, Rule]) -> None:
        self.value, self.operands = np.asarray(value, dtype=np.float64), operands
        self.shape, self.grad = self.value.shape, np.zeros(self.value.shape)

    def backward(self) -> None:
        """Add the gradient of this number to `grad` of every node behind it; `ValueError` if it is not one number."""
        if self.value.size != 1:
            raise ValueError(f"backward starts from one number, got an array of shape {self.shape}; take its .sum()")
        adjoint = {self: np.ones(self.shape)}
        for node in reversed(self.behind()):  # all that use a node come before it, so its adjoint is complete
            arrived = adjoint.pop(node)
            node.grad = node.grad + arrived
            for operand, rule in node.operands:
                adjoint[operand] = adjoint.get(operand, 0.0) + unstretch(rule(arrived), operand.shape)

    def behind(self) -> list[Array]:
        """Topological order: every node that this one depends on, once, operands first and itself last."""
        order, seen, stack = [], set(), [(self, False)]
        while stack:
            node, finished = stack.pop()
            if finished:
                order.append(node)
            elif node not in seen:
                seen.add(node)
                stack += [(node, True), *((operand, False) for operand, _ in node.operands)]
        return order

    def __add__(self, other: Array | ArrayLike) -> Array:
        a, b = self, as_array(other)
        return Array(combine(np.add, a, b), (a, lambda g: g), (b, lambda g: g))

    def __mul__(self, other: Array | ArrayLike) -> Array:
        a, b = self, as_array(other)
        return Array(combine(np.multiply, a, b), (a, lambda g: g * b.value), (b, lambda g: g * a.value))

    def __matmul__(self, other: Array | ArrayLike) -> Array:
        a, b = self, as_array(other)
        at, bt = (np.atleast_2d(m.value).swapaxes(-1, -2) for m in (a, b))
        return Array(combine(np.matmul, a, b), (a, lambda g: g @ bt), (b, lambda g: at @ g))

    def __pow__(self, p: float) -> Array:
        return Array(self.value**p, (self, lambda g: g * p * self.value ** (p - 1)))

    def relu(self) -> Array:
        return Array(np.maximum(self.value, 0.0), (self, lambda g: g * (self.value > 0)))

    def tanh(self) -> Array:
        return Array(t := np.tanh(self.value), (self, lambda g: g * (1 - t * t)))

    def exp(self) -> Array:
        return Array(e := np.exp(self.value), (self, lambda g: g * e))

    def log(self) -> Array:
        return Array(np.log(self.value), (self, lambda g: g / self.value))

    def sum(self, axis: int | None = None, keepdims: bool = False) -> Array:
        kept = self.value.sum(axis, keepdims=True)
        total = kept if keepdims else kept.squeeze(axis)
        return Array(total, (self, lambda g: np.broadcast_to(g.reshape(kept.shape), self.shape)))

    def mean(self) -> Array:
        return self.sum() * (1 / self.value.size)

    def __neg__(self) -> Array:
        return self * -1.0

    def __sub__(self, other: Array | ArrayLike) -> Array:
        return self + -as_array(other)

    def __rsub__(self, other: ArrayLike) -> Array:
        return -self + other

    def __truediv__(self, other: Array | ArrayLike) -> Array:
        return self * as_array(other) ** -1

    def __rtruediv__(self, other: ArrayLike) -> Array:
        return self**-1 * other

    def __rmatmul__(self, other: ArrayLike) -> Array:
        return as_array(other) @ self

    __radd__, __rmul__ = __add__, __mul__


def as_array(x: Array | ArrayLike) -> Array:
    return x if isinstance(x, Array) else Array(x)


def combine(operation: np.ufunc, a: Array, b: Array) -> np.ndarray:
    """The operation on both values; `ValueError` with both shapes if they do not fit."""
    if operation is np.matmul and min(len(a.shape), len(b.shape)) < 2:
        raise ValueError(
            f"matmul needs two matrices, got shapes {a.shape} and {b.shape}; make a vector one row or column"
        )
    try:
        return operation(a.value, b.value)
    except ValueError:
        raise ValueError(f"{operation.__name__} does not fit the shapes {a.shape} and {b.shape}") from None


def unstretch(g: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Sum over the copies that broadcasting made of an array of this shape."""
    g = g.sum(tuple(range(g.ndim - len(shape))))
    return g.sum(tuple(i for i, n in enumerate(shape) if n == 1), keepdims=True)
