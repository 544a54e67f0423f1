"""The closed convolution equals torch's, to second order, under vmap in every combination, at constant cost."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from metabook.networks import conv2d


def draw(*shape, device="cpu"):
    return torch.randn(*shape, dtype=torch.float64, device=device)


@pytest.mark.parametrize("padding", [0, 1])
def test_equals_torch(padding, device):
    x, w = draw(2, 3, 6, 5, device=device), draw(4, 3, 3, 3, device=device)
    torch.testing.assert_close(conv2d(x, w, padding), F.conv2d(x, w, padding=padding))


@pytest.mark.parametrize("padding", [0, 1])
def test_first_and_second_derivatives(padding):
    inputs = draw(2, 2, 4, 4).requires_grad_(), draw(3, 2, 3, 3).requires_grad_()
    assert gradcheck(lambda x, w: conv2d(x, w, padding), inputs)
    assert gradgradcheck(lambda x, w: conv2d(x, w, padding), inputs)


def test_third_derivative():
    """The set is closed, so any order works: the second derivative is itself twice differentiable."""
    w = draw(2, 1, 3, 3).requires_grad_()
    x = draw(1, 1, 4, 4).requires_grad_()

    def first(x, w):
        return torch.autograd.grad(conv2d(x, w).pow(3).sum(), (x, w), create_graph=True)

    assert gradgradcheck(first, (x, w))


@pytest.mark.parametrize(("x_dim", "w_dim"), [(0, 0), (0, None), (None, 0), (1, 2)])
def test_vmap_of_value_and_gradients_is_a_loop(x_dim, w_dim, device):
    tasks = 3
    x, w = draw(2, 3, 5, 5, device=device), draw(4, 3, 3, 3, device=device)
    xs = x if x_dim is None else torch.stack([x + i for i in range(tasks)], dim=x_dim)
    ws = w if w_dim is None else torch.stack([w * (i + 1) for i in range(tasks)], dim=w_dim)

    def f(x, w):
        return conv2d(x, w).pow(2).sum()

    def second_order(x, w):  # the gradient of a gradient's norm
        return grad(lambda x, w: sum(g.pow(2).sum() for g in grad(f, (0, 1))(x, w)), (0, 1))(x, w)

    got = vmap(second_order, (x_dim, w_dim))(xs, ws)
    for i in range(tasks):
        one = second_order(x if x_dim is None else xs.select(x_dim, i), w if w_dim is None else ws.select(w_dim, i))
        for a, b in zip(got, one, strict=True):
            torch.testing.assert_close(a[i], b)


def test_nested_vmap_is_a_double_loop():
    x, w = draw(2, 3, 2, 2, 5, 5), draw(2, 3, 4, 2, 3, 3)  # (outer, inner, ...)
    inner_shared = draw(2, 4, 2, 3, 3)

    def g(x, w):
        return grad(lambda w: conv2d(x, w).pow(2).sum())(w)

    for ws, dim in ((w, 0), (inner_shared, None)):
        got = vmap(vmap(g, (0, dim)))(x, ws)
        for i, j in itertools.product(range(2), range(3)):
            torch.testing.assert_close(got[i, j], g(x[i, j], ws[i, j] if dim == 0 else ws[i]))


class CountOperations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_cost_of_a_meta_step_in_operations_does_not_depend_on_the_number_of_tasks():
    from examples import classification

    from metabook import MAML
    from metabook.networks import conv4

    learner = MAML(conv4(channels=2, outputs=3, image_size=16), inner_steps=2)
    counts = []
    for tasks in (2, 9):
        episode = classification(tasks=tasks, shape=(1, 16, 16), dtype=torch.float32)
        with CountOperations() as counter:
            learner.meta_loss(episode).backward()
        counts.append(counter.count)
        learner.zero_grad(set_to_none=True)
    assert counts[0] == counts[1] > 100
