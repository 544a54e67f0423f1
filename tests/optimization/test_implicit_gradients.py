"""Implicit MAML against ridge regression, against a differentiated unroll, and its solver against linear algebra."""

import pytest
import torch
import torch.nn.functional as F
from examples import classification, regression
from torch import nn
from torch.func import functional_call, grad, vjp, vmap

from metabook import MAML, Episode, Set, meta_train
from metabook.gradient import meta_gradient
from metabook.networks import conv4, mlp
from metabook.optimization.implicit_gradients import ImplicitMAML, conjugate_gradients
from metabook.optimization.maml import descend
from metabook.tasks import LinearGaussian, Quadratics, Sinusoids


class Unrolled(ImplicitMAML):
    """The same inner problem and the same steps, differentiated along the path."""

    def adapt(self, support):
        start = dict(self.network.named_parameters())

        def regularized(weights):
            pull = sum((weights[name] - p).square().sum() for name, p in start.items())
            return self.loss(self.predict(weights, support.x), support.y) + 0.5 * self.regularization * pull

        return descend(regularized, start, self.inner_lr, self.inner_steps)


def gradient_of(learner, episode):
    learner.zero_grad()
    learner.meta_loss(episode).backward()
    return torch.cat([p.grad.flatten() for p in learner.parameters()])


def support_hessian(learner, episode, t):
    """Eigenvalues, in rising order, of the Hessian of one task's support loss where the inner loop ends."""
    support = Set(episode.support.x[t], episode.support.y[t])
    start = torch.cat([p.detach().flatten() for p in learner.parameters()])
    product = vjp(grad(lambda w: learner._support_loss(w, support)), learner.solve(start, support))[1]
    return torch.linalg.eigvalsh(torch.stack([product(row)[0] for row in torch.eye(len(start)).to(start)]))


def linear(features, device="cpu"):
    return nn.Linear(features, 1, bias=False).double().to(device)


def random_spd(d, seed=0, smallest=0.1, largest=10.0):
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64)).Q
    eigenvalues = torch.logspace(0, 1, d, base=largest / smallest, dtype=torch.float64) * smallest
    return basis * eigenvalues @ basis.T, torch.randn(d, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("d", [1, 3, 8])
def test_conjugate_gradients_solve_in_as_many_steps_as_dimensions(d):
    A, b = random_spd(d)
    torch.testing.assert_close(conjugate_gradients(lambda v: A @ v, b, d), torch.linalg.solve(A, b))


def test_conjugate_gradients_need_one_step_per_distinct_eigenvalue():
    basis = torch.linalg.qr(torch.randn(9, 9, dtype=torch.float64)).Q
    A = basis * torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64).repeat(3) @ basis.T
    b = torch.randn(9, dtype=torch.float64)
    torch.testing.assert_close(conjugate_gradients(lambda v: A @ v, b, 3), torch.linalg.solve(A, b))


@pytest.mark.parametrize("largest", [1.0, 10.0, 1000.0])
def test_the_error_of_conjugate_gradients_keeps_its_bound(largest):
    A, b = random_spd(40, smallest=0.1, largest=largest)
    exact, root = torch.linalg.solve(A, b), (largest / 0.1) ** 0.5

    def error(steps):
        gap = conjugate_gradients(lambda v: A @ v, b, steps) - exact
        return (gap @ A @ gap).sqrt()

    for steps in (0, 1, 2, 5, 10, 20):
        assert error(steps) <= 2 * ((root - 1) / (root + 1)) ** steps * error(0)


def test_steps_after_the_exact_answer_change_nothing():
    """Nor does a right-hand side of zero give nan: 0 / 0 is where a stopping rule would have branched."""
    A, b = random_spd(4)
    exact = torch.linalg.solve(A, b)
    torch.testing.assert_close(conjugate_gradients(lambda v: A @ v, b, 200), exact)
    assert torch.equal(conjugate_gradients(lambda v: A @ v, 0 * b, 3), 0 * b)
    one = torch.ones(1, dtype=torch.float64)
    assert torch.equal(conjugate_gradients(lambda v: 2 * v, one, 5), 0.5 * one)


def test_conjugate_gradients_work_on_many_systems_at_once():
    systems = [random_spd(5, seed) for seed in range(4)]
    A, b = (torch.stack(parts) for parts in zip(*systems, strict=True))
    together = vmap(lambda A, b: conjugate_gradients(lambda v: A @ v, b, 5))(A, b)
    torch.testing.assert_close(together, torch.linalg.solve(A, b))


def test_equals_ridge_regression_and_its_meta_gradient(device):
    """With H = 2 X'X / n and s = (H + lambda I)^-1: phi' = s (2 X'y / n + lambda phi), and the Jacobian lambda s."""
    tasks = LinearGaussian(features=4, shots=6, device=device, dtype=torch.float64)
    episode, strength = tasks.sample(5, tasks.generator(0)), 0.7
    network = linear(4, device)
    phi = network.weight[0]
    x, y = episode.support
    identity = torch.eye(4, dtype=x.dtype, device=device)
    solver = torch.linalg.inv(2 * x.mT @ x / 6 + strength * identity)  # (tasks, 4, 4)
    ridge = solver @ (2 * x.mT @ y / 6 + strength * phi[:, None])  # (tasks, 4, 1)
    closed = F.mse_loss(episode.query.x @ ridge, episode.query.y)
    (expected,) = torch.autograd.grad(closed, phi)  # through the formula
    learner = ImplicitMAML(network, strength, inner_lr=0.15, inner_steps=250, cg_steps=4)
    adapted = vmap(learner.adapt)(episode.support)["weight"]
    torch.testing.assert_close(adapted, ridge.mT, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradient_of(learner, episode), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(learner.meta_loss(episode), closed)


def test_closed_form_on_quadratics(device):
    """A direction of curvature h keeps lambda / (lambda + h) of its distance: s H s (phi - c) with that s."""
    family = Quadratics(features=4, device=device)
    bowls = family.bowls(6, family.generator(0))
    network, strength = linear(4, device), 0.5
    identity = torch.eye(4, dtype=torch.float64, device=device)
    keep = strength * torch.linalg.inv(bowls.hessian + strength * identity)
    offset = (network.weight.detach()[0] - bowls.centre)[:, :, None]
    expected = (keep @ bowls.hessian @ keep @ offset).mean(0)[:, 0]
    learner = ImplicitMAML(network, strength, inner_lr=0.4, inner_steps=200, cg_steps=4)
    torch.testing.assert_close(gradient_of(learner, family.episode(bowls)), expected, rtol=1e-10, atol=1e-12)


def test_the_posterior_mean_is_the_solution_of_one_strength():
    """With phi the prior mean and lambda = 2 noise^2 / (shots prior_std^2), adapting is exact Bayesian inference."""
    tasks = LinearGaussian(features=3, shots=5, prior_mean=1.5, prior_std=0.8, noise=1.0, dtype=torch.float64)
    support = tasks.sample(4, tasks.generator(0)).support
    network = linear(3)
    nn.init.constant_(network.weight, 1.5)
    learner = ImplicitMAML(network, 2 / (5 * 0.8**2), inner_lr=0.1, inner_steps=400)
    adapted = vmap(learner.adapt)(support)["weight"][:, 0]
    torch.testing.assert_close(adapted, tasks.posterior(support).mean, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("episode", [regression(shots=6), classification(ways=3)])
def test_approaches_the_differentiated_unroll_at_the_rate_of_the_descent(episode):
    """Both gradients go to that of the solution.  Near it a step leaves 1 - lr (lambda + h) of the distance along a
    direction of curvature h, and h may be as low as -lambda: the lowest sets the rate."""
    outputs = 3 if episode.support.y.ndim == 2 else 1
    network, strength, lr = mlp([episode.support.x.shape[-1], 6, outputs], nn.Tanh).double(), 2.0, 0.1
    steps = (3, 40, 120)
    errors = []
    for k in steps:
        implicit = ImplicitMAML(network, strength, lr, k, cg_steps=40)
        unrolled = Unrolled(network, strength, lr, k)
        torch.testing.assert_close(implicit(episode), unrolled(episode))
        a, b = gradient_of(implicit, episode), gradient_of(unrolled, episode)
        errors.append((a - b).norm() / b.norm())
    lowest = min(support_hessian(ImplicitMAML(network, strength, lr, 300), episode, t)[0] for t in range(3))
    assert -strength < lowest < 0 and errors[0] > 0.05
    assert (errors[2] / errors[1]) ** (1 / 80) < 1.02 * (1 - lr * (strength + lowest))


def test_the_error_falls_with_the_steps_of_conjugate_gradients():
    """At the solution nothing else is wrong, so the error keeps the bound of conjugate gradients."""
    family, strength = Quadratics(features=12, curvature=(0.5, 50.0)), 0.5
    episode = family.sample(1, family.generator(0))
    network = linear(12)
    learner = ImplicitMAML(network, strength, inner_lr=0.03, inner_steps=700)
    hessian = 2 * episode.support.x[0].T @ episode.support.x[0] / 12
    A = torch.eye(12, dtype=torch.float64) + hessian / strength
    eigenvalues = torch.linalg.eigvalsh(A)
    root = (eigenvalues[-1] / eigenvalues[0]).sqrt()

    def error(steps):
        learner.cg_steps = steps
        gap = gradient_of(learner, episode) - exact
        return (gap @ A @ gap).sqrt()

    exact = 0.0
    learner.cg_steps = 12
    exact = gradient_of(learner, episode)
    size = (exact @ A @ exact).sqrt()
    errors = torch.stack([error(steps) for steps in (1, 2, 4, 6, 8)])
    bound = 2 * ((root - 1) / (root + 1)) ** torch.tensor([1, 2, 4, 6, 8]) * size
    assert (errors <= bound).all() and errors[-1] < 0.02 * errors[0]


def test_before_any_step_the_gradient_is_biased():
    """At phi' = phi the true gradient is the pooled one; the implicit one is divided by I + H / lambda all the same."""
    family = Quadratics(features=3)
    bowls = family.bowls(4, family.generator(1))
    network = linear(3)
    offset = (network.weight.detach()[0] - bowls.centre)[:, :, None]
    A = torch.eye(3, dtype=torch.float64) + bowls.hessian / 0.5
    expected = torch.linalg.solve(A, bowls.hessian @ offset).mean(0)[:, 0]
    episode = family.episode(bowls)
    got = gradient_of(ImplicitMAML(network, 0.5, 0.1, inner_steps=0, cg_steps=3), episode)
    torch.testing.assert_close(got, expected)
    pooled = gradient_of(MAML(network, inner_steps=0), episode)
    assert (got - pooled).norm() > 0.3 * pooled.norm()


def test_equals_one_task_after_the_other(device):
    """Under vmap = in a loop, with plain linear algebra for the system."""
    episode, network = regression(shots=6, device=device), mlp([2, 5, 1], nn.Tanh).double().to(device)
    learner = ImplicitMAML(network, 0.8, 0.1, 60, cg_steps=60)
    names, parameters = zip(*network.named_parameters(), strict=True)
    total = 0
    for t in range(episode.tasks):
        state = learner.adapt(Set(episode.support.x[t], episode.support.y[t]))
        vector = torch.cat([state[name].detach().flatten() for name in names]).requires_grad_()

        def loss(vector, x, y):
            parts = vector.split([p.numel() for p in parameters])
            weights = {n: w.view_as(p) for n, w, p in zip(names, parts, parameters, strict=True)}
            return F.mse_loss(functional_call(network, weights, (x,)), y)

        x, y = episode.support.x[t], episode.support.y[t]
        hessian = torch.autograd.functional.hessian(lambda v, x=x, y=y: loss(v, x, y), vector)
        (gradient,) = torch.autograd.grad(loss(vector, episode.query.x[t], episode.query.y[t]), vector)
        identity = torch.eye(len(vector), dtype=vector.dtype, device=device)
        total = total + torch.linalg.solve(identity + hessian / 0.8, gradient)
    torch.testing.assert_close(gradient_of(learner, episode), total / episode.tasks, rtol=1e-7, atol=1e-10)


def test_the_path_is_not_kept():
    """Nodes of the graph that `backward` walks: as many after 100 inner steps as after one."""

    def nodes(learner):
        seen, open_ = set(), [learner.meta_loss(regression()).grad_fn]
        while open_:
            node = open_.pop()
            if node is not None and node not in seen:
                seen.add(node)
                open_ += [parent for parent, _ in node.next_functions]
        return len(seen)

    network = mlp([2, 4, 1]).double()
    assert nodes(ImplicitMAML(network, inner_steps=100)) == nodes(ImplicitMAML(network, inner_steps=1))
    assert nodes(MAML(network, inner_steps=10)) > 3 * nodes(MAML(network, inner_steps=1))


def test_chunks_give_the_same_gradient():
    episode, network = regression(tasks=4), mlp([2, 4, 1], nn.Tanh).double()
    learner = ImplicitMAML(network, 1.0, 0.1, 10)
    whole = gradient_of(learner, episode)
    learner.zero_grad()
    meta_gradient(learner, chunk=2)(episode)
    torch.testing.assert_close(torch.cat([p.grad.flatten() for p in learner.parameters()]), whole)


def test_works_through_the_convolutions_and_norms_of_the_book():
    """What comes back solves the linear system, whose product ordinary autograd makes here without vmap.

    No comparison with an unroll: rectifiers and pooling have kinks, on which a descent need not settle.
    """
    episode = classification(tasks=2, ways=2, shots=2, queries=1, shape=(1, 16, 16))
    network = conv4(channels=3, outputs=2, norm="batch", image_size=16).double()
    learner = ImplicitMAML(network, 50.0, 0.01, inner_steps=3, cg_steps=30)
    names, gradients = [name for name, _ in network.named_parameters()], []
    for t in range(episode.tasks):
        support, query = (Set(part.x[t], part.y[t]) for part in episode)
        state = learner.adapt(support)
        solution = torch.cat([state[name].detach().flatten() for name in names])
        v = gradient_of(learner, Episode(*(Set(part.x[None], part.y[None]) for part in (support, query))))
        product = torch.autograd.functional.vhp(lambda w, s=support: learner._support_loss(w, s), solution, v)[1]
        at_solution = torch.autograd.functional.vjp(lambda w, q=query: learner._support_loss(w, q), solution)[1]
        torch.testing.assert_close(v + product / 50.0, at_solution, rtol=1e-7, atol=1e-10)
        gradients.append(v)
    torch.testing.assert_close(gradient_of(learner, episode), torch.stack(gradients).mean(0))


def test_evaluation_and_training_run_without_special_care():
    tasks = Sinusoids(shots=5, queries=5)
    learner = ImplicitMAML(mlp([1, 8, 1]), 1.0, 0.05, 5)
    before = [p.detach().clone() for p in learner.parameters()]
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.01)
    meta_train(learner, tasks, steps=2, meta_batch=3, optimizer=optimizer)
    assert all((p != q).any() for p, q in zip(learner.parameters(), before, strict=True))
    with torch.no_grad():
        assert learner(tasks.sample(2, tasks.generator(0))).shape == (2, 5, 1)


def test_bad_settings_are_refused():
    for bad, message in [
        ({"regularization": 0.0}, "regularization must be positive, got 0.0; without a pull use MAML"),
        ({"cg_steps": 0}, "cg_steps must be a positive integer, got 0"),
        ({"inner_lr": -1.0}, "inner_lr and inner_steps cannot be negative"),
    ]:
        with pytest.raises(ValueError, match=message):
            ImplicitMAML(mlp([2, 1]), **bad)
    with pytest.raises(ValueError, match="BatchNorm1d"):
        ImplicitMAML(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))


def test_a_task_without_error_has_no_gradient():
    """The query loss is zero, so conjugate gradients start from zero."""
    network = linear(2)
    x = torch.randn(1, 4, 2, dtype=torch.float64)
    episode = Episode(Set(x, network(x).detach()), Set(x, network(x).detach()))
    assert torch.equal(gradient_of(ImplicitMAML(network, 1.0, 0.1, 5), episode), torch.zeros(2, dtype=torch.float64))
