"""Hypergradients against closed forms, against each other, against their bounds, and against the learners."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, jacrev

from metabook import MAML, Set
from metabook.optimization.implicit_gradients import ImplicitMAML
from metabook.tasks import Quadratics
from metabook.theory.bilevel_optimization import (
    finite_differences,
    first_order,
    forward_mode,
    implicit,
    inner_loop,
    neumann,
    truncated,
    unrolled,
)

LR, STEPS, D = 0.1, 12, 4


def uniform(*shape, seed):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


MIX = uniform(D, D, seed=5)


class Ridge:
    """Least squares with a penalty for each weight, and a validation loss that has a penalty term of its own."""

    x, y = 2 * uniform(9, D, seed=0) - 1, 2 * uniform(9, seed=1)
    vx, vy = 2 * uniform(7, D, seed=2) - 1, 2 * uniform(7, seed=3)
    phi = uniform(D, seed=4) - 1.0
    H, b = x.T @ x / 9, x.T @ y / 9

    @classmethod
    def inner(cls, w, phi):
        return 0.5 * ((cls.x @ w - cls.y).square().mean() + (phi.exp() * w.square()).sum())

    @classmethod
    def outer(cls, w, phi):
        return 0.5 * (cls.vx @ w - cls.vy).square().mean() + 0.01 * phi.square().sum()

    @classmethod
    def curvature(cls, phi):
        return cls.H + phi.exp().diag()

    @classmethod
    def solution(cls, phi):
        return torch.linalg.solve(cls.curvature(phi), cls.b)

    @classmethod
    def after(cls, phi, begin, steps, lr):
        """Gradient descent in closed form: (I - lr A)^steps of the distance to the solution is left."""
        keep = torch.linalg.matrix_power(torch.eye(D).double() - lr * cls.curvature(phi), steps)
        return cls.solution(phi) + keep @ (begin - cls.solution(phi))


def zeros(phi):
    return torch.zeros(D, dtype=phi.dtype)


def linear(phi):
    """A start that depends on phi, not as a multiple of the identity."""
    return MIX @ phi.sin()


def problem(start=zeros, steps=STEPS, lr=LR):
    return Ridge.inner, Ridge.outer, Ridge.phi, start, steps, lr


def exact():
    return grad(lambda phi: Ridge.outer(Ridge.solution(phi), phi))(Ridge.phi)


@pytest.mark.parametrize("start", [zeros, linear])
@pytest.mark.parametrize("steps", [0, 1, 12])
def test_reverse_and_forward_mode_are_the_gradient_of_what_the_steps_compute(start, steps):
    closed = grad(lambda phi: Ridge.outer(Ridge.after(phi, start(phi), steps, LR), phi))(Ridge.phi)
    torch.testing.assert_close(unrolled(*problem(start, steps)), closed, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(forward_mode(*problem(start, steps)), closed, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("start", [zeros, linear])
def test_the_inner_loop_is_gradient_descent_and_a_constant(start):
    weights = inner_loop(Ridge.inner, Ridge.phi, start, STEPS, LR)
    torch.testing.assert_close(weights, Ridge.after(Ridge.phi, start(Ridge.phi), STEPS, LR))
    assert not weights.requires_grad


def test_a_solved_inner_problem_gives_the_gradient_of_its_formula():
    solved = problem(steps=600, lr=0.3)
    for answer in (
        unrolled(*solved),
        forward_mode(*solved),
        implicit(*solved, products=D),
        neumann(*solved, terms=400),
    ):
        torch.testing.assert_close(answer, exact(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(finite_differences(*solved, width=1e-4), exact(), rtol=1e-6, atol=1e-9)


def test_a_start_at_phi_is_not_confused_with_phi_in_the_loss():
    """The inner loss depends on phi by the weights, which start there, and directly."""

    def closed(phi):
        return Ridge.outer(Ridge.after(phi, phi, STEPS, LR), phi)

    for method in (unrolled, forward_mode):
        torch.testing.assert_close(method(*problem(lambda phi: phi)), grad(closed)(Ridge.phi))


def test_all_steps_are_unrolled_and_none_is_first_order():
    torch.testing.assert_close(truncated(*problem(), last=STEPS), unrolled(*problem()), rtol=0, atol=0)
    torch.testing.assert_close(truncated(*problem(), last=0), first_order(*problem()))
    torch.testing.assert_close(first_order(*problem()), neumann(*problem(), terms=0))
    torch.testing.assert_close(first_order(*problem()), 0.02 * Ridge.phi)  # the outer loss's own term alone


@pytest.mark.parametrize("terms", [1, 2, 7, 30])
def test_at_the_solution_neumann_is_truncated(terms):
    optimum = Ridge.solution(Ridge.phi)
    at = problem(lambda phi: optimum, steps=40)
    torch.testing.assert_close(neumann(*at, terms=terms), truncated(*at, last=terms), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("terms", [1, 5, 20])
def test_the_bias_of_a_cut_series_has_a_formula(terms):
    optimum = Ridge.solution(Ridge.phi)
    A, B = Ridge.curvature(Ridge.phi), (Ridge.phi.exp() * optimum).diag()
    g = grad(Ridge.outer)(optimum, Ridge.phi)
    missing = B.T @ torch.linalg.solve(A, torch.linalg.matrix_power(torch.eye(D).double() - LR * A, terms) @ g)
    bias = neumann(*problem(lambda phi: optimum, steps=0), terms=terms) - exact()
    torch.testing.assert_close(bias, missing, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("last", [0, 1, 5, 20, 60])
def test_truncation_keeps_its_bound(last):
    steps, eigenvalues = 80, torch.linalg.eigvalsh(Ridge.curvature(Ridge.phi))
    lr, mu = 1 / eigenvalues[-1].item(), eigenvalues[0]
    path = torch.stack([inner_loop(Ridge.inner, Ridge.phi, zeros, t, lr) for t in range(steps)])
    B = (Ridge.phi.exp() * path).abs().max()
    g = grad(Ridge.outer)(inner_loop(Ridge.inner, Ridge.phi, zeros, steps, lr), Ridge.phi)
    error = truncated(*problem(steps=steps, lr=lr), last=last) - unrolled(*problem(steps=steps, lr=lr))
    assert error.norm() <= (1 - lr * mu) ** last * B * g.norm() / mu


def test_the_unrolled_jacobian_keeps_its_bound():
    """|J_t - J*| <= q^t |J*| + alpha rho t q^(t-1) |start - solution|, here with rho = max exp(phi)."""
    eigenvalues = torch.linalg.eigvalsh(Ridge.curvature(Ridge.phi))
    lr, optimum = 0.5 / eigenvalues[-1].item(), Ridge.solution(Ridge.phi)
    q, rho = 1 - lr * eigenvalues[0], Ridge.phi.exp().max()
    limit = jacrev(Ridge.solution)(Ridge.phi)
    for t in (1, 3, 10, 40):
        J = jacrev(lambda phi, t=t: Ridge.after(phi, zeros(phi), t, lr))(Ridge.phi)
        bound = q**t * torch.linalg.matrix_norm(limit, 2) + lr * rho * t * q ** (t - 1) * optimum.norm()
        assert torch.linalg.matrix_norm(J - limit, 2) <= bound


def test_finite_differences_are_off_by_the_square_of_their_width():
    errors = [(finite_differences(*problem(), width=w) - unrolled(*problem())).norm() for w in (1e-1, 1e-2)]
    assert 95 < errors[0] / errors[1] < 105


# The learners of the book are special cases.

NET = nn.Sequential(nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 1)).double()
SUPPORT = Set(uniform(6, 1, seed=6), uniform(6, 1, seed=7))
QUERY = Set(uniform(6, 1, seed=8), uniform(6, 1, seed=9))
PHI = 2 * uniform(16, seed=10) - 1


def loss_on(part):
    names = dict(NET.named_parameters())

    def loss(w, phi=None):
        parts = w.split([p.numel() for p in names.values()])
        named = {name: v.view_as(p) for (name, p), v in zip(names.items(), parts, strict=True)}
        return F.mse_loss(functional_call(NET, named, (part.x,)), part.y)

    return loss


def through_the_learner(learner):
    loss = F.mse_loss(learner.predict(learner.adapt(SUPPORT), QUERY.x), QUERY.y)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(NET.parameters()))])


@pytest.fixture
def network():
    torch.nn.utils.vector_to_parameters(PHI, NET.parameters())
    return NET


def test_maml_starts_at_phi(network):
    task = loss_on(SUPPORT), loss_on(QUERY), PHI, lambda phi: phi, 3, 0.1
    torch.testing.assert_close(unrolled(*task), through_the_learner(MAML(network, 0.1, 3)))
    torch.testing.assert_close(forward_mode(*task), unrolled(*task))
    torch.testing.assert_close(first_order(*task), through_the_learner(MAML(network, 0.1, 3, first_order=True)))
    assert torch.equal(implicit(*task, products=3), torch.zeros_like(PHI))  # a solution knows no start


def test_implicit_maml_is_pulled_to_phi(network):
    support = loss_on(SUPPORT)

    def pulled(w, phi):
        return support(w) + 0.5 * 4.0 * (w - phi).square().sum()

    task = pulled, loss_on(QUERY), PHI, lambda phi: phi, 10, 0.1
    learner = ImplicitMAML(network, 4.0, 0.1, 10, cg_steps=4)
    torch.testing.assert_close(implicit(*task, products=4), through_the_learner(learner))


def test_bowls_have_the_closed_form_of_maml():
    family = Quadratics(features=3)
    bowls = family.bowls(1, family.generator(0))
    H, centre, phi = bowls.hessian[0], bowls.centre[0], uniform(3, seed=11)

    def bowl(w, phi):
        return 0.5 * (w - centre) @ H @ (w - centre)

    keep = torch.linalg.matrix_power(torch.eye(3).double() - 0.2 * H, 5)
    task = bowl, bowl, phi, lambda phi: phi, 5, 0.2
    torch.testing.assert_close(unrolled(*task), keep @ H @ keep @ (phi - centre))
    torch.testing.assert_close(first_order(*task), H @ keep @ (phi - centre))


def test_problems_whose_losses_are_summed_do_not_touch_each_other():
    def both(loss):
        return lambda w, phi: loss(w[:D], phi[:D]) + loss(w[D:], phi[D:])

    phis = torch.cat([Ridge.phi, Ridge.phi + 0.5])
    pair = both(Ridge.inner), both(Ridge.outer), phis, lambda phi: torch.zeros(2 * D).double(), STEPS, LR
    apart = [(Ridge.inner, Ridge.outer, phi, zeros, STEPS, LR) for phi in phis.split(D)]
    torch.testing.assert_close(unrolled(*pair), torch.cat([unrolled(*one) for one in apart]))
    torch.testing.assert_close(neumann(*pair, terms=5), torch.cat([neumann(*one, terms=5) for one in apart]))


def test_it_works_where_gradients_are_switched_off_and_leaves_phi_as_it_was():
    expected = unrolled(*problem())
    with torch.no_grad():
        for answer in (unrolled(*problem()), forward_mode(*problem())):
            torch.testing.assert_close(answer, expected)
        torch.testing.assert_close(implicit(*problem(steps=900), products=D), exact())
    assert not Ridge.phi.requires_grad
    assert not unrolled(*problem()).requires_grad


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        (unrolled, {"steps": -1}, "steps cannot be negative, got -1"),
        (forward_mode, {"lr": 0.0}, "lr must be positive, got 0.0"),
        (unrolled, {"phi": torch.zeros(2, 2)}, "must be vectors"),
        (first_order, {"start": lambda phi: torch.zeros(2, 2)}, "must be vectors"),
        (lambda **p: truncated(**p, last=13), {}, "last must lie in 0..steps = 0..12, got 13"),
        (lambda **p: implicit(**p, products=-1), {}, "products cannot be negative"),
        (lambda **p: neumann(**p, terms=-2), {}, "terms cannot be negative"),
        (lambda **p: finite_differences(**p, width=0.0), {}, "width must be positive, got 0.0"),
    ],
)
def test_bad_input_is_refused(method, change, message):
    names = ("inner_loss", "outer_loss", "phi", "start", "steps", "lr")
    with pytest.raises(ValueError, match=message):
        method(**{**dict(zip(names, problem(), strict=True)), **change})


def test_the_mixed_product_needs_no_symmetry():
    """m is not d: one penalty for all weights, B is a column."""
    phi = torch.tensor([-0.5], dtype=torch.float64)

    def inner(w, phi):
        return Ridge.inner(w, phi.expand(D))

    closed = grad(lambda phi: Ridge.outer(Ridge.solution(phi.expand(D)), phi))(phi)
    task = inner, Ridge.outer, phi, zeros, 900, 0.2
    for answer in (unrolled(*task), forward_mode(*task), implicit(*task, products=D)):
        torch.testing.assert_close(answer, closed, rtol=1e-9, atol=1e-12)


def test_meta_gradient_of_the_library_agrees():
    """The library's own meta-gradient of many tasks is the mean of these."""
    family = Quadratics(features=3)
    bowls = family.bowls(4, family.generator(1))
    episode = family.episode(bowls)
    layer = nn.Linear(3, 1, bias=False).double()
    phi = layer.weight.detach()[0]
    ours = torch.stack([
        unrolled(bowl, bowl, phi, lambda phi: phi, 2, 0.1)
        for bowl in (lambda w, phi, H=H, c=c: 0.5 * (w - c) @ H @ (w - c) for c, H in zip(*bowls, strict=True))
    ])  # fmt: skip
    learner = MAML(layer, 0.1, 2)
    learner.meta_loss(episode).backward()
    torch.testing.assert_close(layer.weight.grad[0], ours.mean(0))
