"""The engine against torch and finite differences on random expressions, its rules one by one, and bad input."""

import ast
import inspect
import random

import numpy as np
import pytest
import torch

from metabook.basics import neural_networks
from metabook.basics.neural_networks import Array, unstretch

SHAPES = [(), (1,), (4,), (3, 1), (1, 4), (3, 4), (4, 3), (4, 4), (2, 1, 4), (2, 3, 4)]


def leaves(seed):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in SHAPES]


def fit(operation, a, b):
    try:
        getattr(np, operation)(np.zeros(a.shape), np.zeros(b.shape))
    except ValueError:
        return False
    return operation != "matmul" or min(len(a.shape), len(b.shape)) >= 2


UNARY = {
    "relu": lambda a: a.relu(),
    "tanh": lambda a: a.tanh(),
    "exp": lambda a: a.tanh().exp(),
    "log": lambda a: (a * a + 0.5).log(),
    "negative": lambda a: -a,
    "square": lambda a: a.tanh() ** 2,
    "root": lambda a: (a**2 + 1.0) ** 0.5,
    "inverse": lambda a: 1 / (a * a + 1.0),
    "from a number": lambda a: 2.0 - a,
    "sum": lambda a: a.sum() * 0.3,
    "mean": lambda a: a.mean(),
}
BINARY = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a.tanh() * b,
    "divide": lambda a, b: a / (b * b + 1.0),
    "matmul": lambda a, b: 0.5 * (a @ b).tanh(),
}


def expression(inputs, seed, size=25):
    """A random graph over the inputs; nodes are drawn with replacement, so many are used more than once.

    The draws depend on shapes alone, so that arrays and tensors get the same graph.
    """
    draw, nodes = random.Random(seed), list(inputs)
    for _ in range(size):
        a, b, name = draw.choice(nodes), draw.choice(nodes), draw.choice([*UNARY, *BINARY, "axis"])
        if name == "axis":
            if len(a.shape) == 0:
                continue
            made = a.sum(axis=draw.randrange(-len(a.shape), len(a.shape)), keepdims=draw.random() < 0.5) * 0.4
        elif name in UNARY:
            made = UNARY[name](a)
        else:
            numpy_name = name if name == "matmul" else "add"
            if not fit(numpy_name, a, b):
                continue
            made = BINARY[name](a, b)
        nodes.append(made)
    total = 0.0
    for node in nodes:
        total = total + node.tanh().sum()
    return total


def value_and_gradients(values, seed):
    arrays = [Array(value) for value in values]
    result = expression(arrays, seed)
    result.backward()
    return float(result.value), [array.grad for array in arrays]


# random graphs


@pytest.mark.parametrize("seed", range(200))
def test_a_random_graph_has_the_value_and_gradients_of_torch(seed):
    values = leaves(seed)
    value, gradients = value_and_gradients(values, seed)
    tensors = [torch.tensor(v, requires_grad=True) for v in values]
    theirs = expression(tensors, seed)
    theirs.backward()
    assert abs(value - theirs.item()) <= 1e-10 * max(1, abs(value))
    for ours, tensor in zip(gradients, tensors, strict=True):
        assert ours.shape == tuple(tensor.shape)
        np.testing.assert_allclose(ours, tensor.grad.numpy(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("seed", range(30))
def test_a_random_graph_has_the_slope_of_finite_differences(seed):
    """Along a random direction of all inputs; a kink of a relu within the step would show as an error of order one."""
    values, rng, step = leaves(seed), np.random.default_rng(1000 + seed), 1e-6
    _, gradients = value_and_gradients(values, seed)
    along = [rng.normal(size=v.shape) for v in values]
    up, down = (
        float(expression([Array(v + s * d) for v, d in zip(values, along, strict=True)], seed).value)
        for s in (step, -step)
    )
    exact = sum(float((g * d).sum()) for g, d in zip(gradients, along, strict=True))
    assert (up - down) / (2 * step) == pytest.approx(exact, rel=1e-6, abs=1e-6)


def test_the_random_graphs_use_every_operation_share_nodes_and_broadcast():
    """Or the tests above would claim less than they say."""
    used, shared, stretched = set(), 0, 0
    for seed in range(200):
        draw = expression([Array(v) for v in leaves(seed)], seed)
        nodes = draw.behind()
        users = [operand for node in nodes for operand, _ in node.operands]
        shared += sum(users.count(node) > 1 for node in nodes)
        stretched += sum(operand.shape != node.shape for node in nodes for operand, _ in node.operands)
        used |= {rule.__qualname__.split(".")[1] for node in nodes for _, rule in node.operands}
    assert {"__add__", "__mul__", "__matmul__", "__pow__", "relu", "tanh", "exp", "log", "sum"} <= used
    assert shared > 2000 and stretched > 2000


# one rule at a time


@pytest.mark.parametrize("name", UNARY)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_a_function_of_one_array(name, shape):
    value = np.random.default_rng(0).normal(size=shape)
    ours, theirs = Array(value), torch.tensor(value, requires_grad=True)
    for x in (ours, theirs):
        (UNARY[name](x) * UNARY[name](x)).sum().backward()
    np.testing.assert_allclose(ours.grad, theirs.grad.numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["add", "subtract", "multiply", "divide"])
@pytest.mark.parametrize(
    "shapes", [((), (3,)), ((1,), (2, 3)), ((3, 1), (1, 4)), ((4,), (2, 3, 4)), ((2, 1, 4), (3, 1))]
)
def test_broadcasting_sums_over_the_copies(name, shapes):
    rng = np.random.default_rng(0)
    values = [rng.normal(size=shape) for shape in shapes]
    weight = rng.normal(size=np.broadcast_shapes(*shapes))
    ours, theirs = [Array(v) for v in values], [torch.tensor(v, requires_grad=True) for v in values]
    for inputs, w in ((ours, weight), (theirs, torch.tensor(weight))):
        for a, b in (inputs, inputs[::-1]):
            (BINARY[name](a, b) * w).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        assert a.grad.shape == a.shape
        np.testing.assert_allclose(a.grad, b.grad.numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "shapes", [((2, 3), (3, 4)), ((1, 3), (3, 1)), ((5, 2, 3), (3, 4)), ((2, 3), (5, 3, 4)), ((5, 1, 2, 3), (4, 3, 2))]
)
def test_matrix_products_with_and_without_a_batch(shapes):
    rng = np.random.default_rng(0)
    values = [rng.normal(size=shape) for shape in shapes]
    ours, theirs = [Array(v) for v in values], [torch.tensor(v, requires_grad=True) for v in values]
    for a, b in (ours, theirs):
        ((a @ b) ** 2).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.grad, b.grad.numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("axis", [None, 0, 1, 2, -1])
@pytest.mark.parametrize("keepdims", [False, True])
def test_a_sum_along_an_axis(axis, keepdims):
    value = np.random.default_rng(0).normal(size=(2, 3, 4))
    x = Array(value)
    total = x.sum(axis, keepdims)
    assert total.shape == value.sum(axis=axis, keepdims=keepdims).shape
    (total * total).sum().backward()
    np.testing.assert_allclose(x.grad, np.broadcast_to(2 * value.sum(axis=axis, keepdims=True), value.shape))


def test_numpy_arrays_and_numbers_may_stand_on_either_side():
    x, m = Array([[1.0, 2.0]]), np.array([[3.0], [4.0]])
    results = [m + x, x + m, m * x, x * m, m.T - x, x - m.T, m.T / x, x / m.T, x @ m, m @ x, 2 + x, 2 * x, 2 - x, 2 / x]
    assert all(isinstance(result, Array) for result in results)
    np.testing.assert_array_equal((m @ x).value, [[3.0, 6.0], [4.0, 8.0]])
    np.testing.assert_array_equal((m.T - x).value, [[2.0, 2.0]])
    np.testing.assert_array_equal((2 / x).value, [[2.0, 1.0]])


def test_relu_has_slope_zero_at_its_kink_as_in_torch():
    x, t = Array([-1.0, 0.0, 2.0]), torch.tensor([-1.0, 0.0, 2.0], requires_grad=True)
    for y in (x, t):
        y.relu().sum().backward()
    np.testing.assert_array_equal(x.grad, t.grad.numpy())
    assert x.grad[1] == 0.0


def test_unstretch_undoes_broadcasting():
    for small, large in (((), (2, 3)), ((1,), (4,)), ((3, 1), (2, 3, 5)), ((2, 3), (2, 3))):
        copies = np.prod(large) / np.prod(small)
        np.testing.assert_array_equal(unstretch(np.ones(large), small), np.full(small, copies))


# the graph


def test_a_shared_node_collects_from_all_that_use_it():
    x = Array(3.0)
    y = x * x  # one node, both operands
    z = y + y * y
    z.backward()
    assert z.value == 90.0 and y.grad == 1 + 2 * 9 and x.grad == 19 * 6


def test_a_ladder_of_shared_nodes_is_walked_once():
    """Walked path by path, 60 doublings would take 2^60 steps."""
    x = node = Array(1.0)
    for _ in range(60):
        node = node + node
    assert len(node.behind()) == 61
    node.backward()
    assert x.grad == 2.0**60


def test_operands_come_first_in_the_order():
    result = expression([Array(v) for v in leaves(3)], 3)
    order = result.behind()
    position = {node: i for i, node in enumerate(order)}
    assert len(position) == len(order) and order[-1] is result
    assert all(position[operand] < position[node] for node in order for operand, _ in node.operands)


def test_a_chain_of_ten_thousand_nodes_needs_no_recursion():
    x = node = Array(0.5)
    for _ in range(10_000):
        node = node * 1.0001
    node.backward()
    assert x.grad == pytest.approx(1.0001**10_000)


def test_backward_twice_adds_the_gradient_twice_as_in_torch():
    """Nodes in the middle too: adjoints of the first call do not leak into the second."""
    x, t = Array([1.0, 2.0]), torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    for y in (x, t):
        loss = (y * y).tanh().sum()
        loss.backward(**({"retain_graph": True} if isinstance(y, torch.Tensor) else {}))
        loss.backward()
    np.testing.assert_allclose(x.grad, t.grad.numpy(), rtol=1e-12)


def test_two_losses_on_one_graph_add_up():
    x = Array([1.0, 2.0])
    middle = x.exp()
    middle.sum().backward()
    (3 * middle).sum().backward()
    np.testing.assert_allclose(x.grad, 4 * np.exp(x.value))


def test_what_the_result_does_not_depend_on_keeps_a_gradient_of_zero():
    x, other = Array([1.0, 2.0]), Array([[1.0], [2.0]])
    other + x
    x.sum().backward()
    np.testing.assert_array_equal(other.grad, np.zeros((2, 1)))


def test_the_inputs_and_the_values_are_left_alone():
    value = np.array([1.0, -2.0])
    x = Array(value)
    y = (x.relu() * 3 - x / 2) ** 2
    before = y.value.copy()
    y.sum().backward()
    np.testing.assert_array_equal(value, [1.0, -2.0])
    np.testing.assert_array_equal(y.value, before)


# bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Array(np.ones((2, 3))).backward(), r"one number, got an array of shape \(2, 3\)"),
        (lambda: Array(np.ones(0)).backward(), r"one number, got an array of shape \(0,\)"),
        (lambda: Array(np.ones(3)) + np.ones(4), r"add does not fit the shapes \(3,\) and \(4,\)"),
        (lambda: Array(np.ones((2, 3))) * Array(np.ones((3, 2))), r"multiply does not fit .*\(2, 3\) and \(3, 2\)"),
        (lambda: Array(np.ones((2, 3))) @ np.ones((2, 3)), r"matmul does not fit the shapes \(2, 3\) and \(2, 3\)"),
        (lambda: Array(np.ones((2, 3))) @ np.ones(3), r"needs two matrices, got shapes \(2, 3\) and \(3,\)"),
        (lambda: np.ones(2) @ Array(np.ones((2, 3))), r"needs two matrices, got shapes \(2,\) and \(2, 3\)"),
        (lambda: Array("three"), "could not convert"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_one_number_may_have_any_shape():
    x = Array([[2.0]])
    (x * x).backward()
    assert x.grad == 4.0


# the promise


def test_the_engine_has_at_most_100_lines():
    source = inspect.getsource(neural_networks)
    text = ast.parse(source).body[0]  # the opening docstring
    assert isinstance(text, ast.Expr)
    lines = source.splitlines()[text.end_lineno :]
    assert sum(bool(line.strip()) for line in lines) <= 100
    assert max(map(len, lines)) <= 120
