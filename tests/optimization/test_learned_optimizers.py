"""Learned optimisers: the steps, the meta-gradient and its two estimators agree with what was computed otherwise."""

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call

from metabook.basics.losses_and_optimizers import adam, gradient_descent
from metabook.optimization.learned_optimizers import (
    LearnedOptimizer,
    PersistentES,
    Problems,
    TruncatedBackprop,
    preprocess,
    unroll,
)


def problems(tasks=3, d=4, device="cpu", seed=0):
    """Least squares `||W theta - y||^2` in float64."""
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(tasks, d, d, generator=generator, dtype=torch.float64).to(device)
    y = torch.randn(tasks, d, generator=generator, dtype=torch.float64).to(device)

    def objective(theta):
        return ((W @ theta[..., None])[..., 0] - y).square().sum(-1)

    return Problems(objective, torch.zeros_like(y))


def lstm(device="cpu", **options):
    return LearnedOptimizer(**{"hidden": 3, **options}).double().to(device)


class ConstantStep(nn.Module):
    """Whatever the gradient, the same step: one number to learn, and an unroll that is linear in it."""

    def __init__(self, step=0.3):
        super().__init__()
        self.step = nn.Parameter(torch.tensor(step, dtype=torch.float64))

    def init(self, theta):
        return ()

    def forward(self, gradient, state):
        return self.step * torch.ones_like(gradient), state


def flat_gradient(module):
    return torch.cat([p.grad.flatten() for p in module.parameters()])


def mean_over_an_unroll(estimator):
    """The mean of the estimates of all segments, flat."""
    estimator.optimizer.zero_grad()
    segments = estimator.horizon // estimator.truncation
    for _ in range(segments):
        estimator.backward()
    return flat_gradient(estimator.optimizer) / segments


def meta_gradient(optimizer, batch, steps, second_order=True):
    """Of the mean loss over a whole unroll, by autograd."""
    run = unroll(optimizer, *batch, optimizer.init(batch.start), steps, second_order)
    return torch.cat([g.flatten() for g in torch.autograd.grad(run.losses.mean(), list(optimizer.parameters()))])


def test_an_optimizer_of_part_one_works_on_all_tasks_at_once(device):
    """The steps of torch's Adam on each task alone."""
    objective, start = problems(device=device)
    ours = adam(0.1, betas=(0.8, 0.95))
    run = unroll(ours.update, objective, start, ours.init(start), 40)
    for task in range(len(start)):
        theta = start[task].clone().requires_grad_()
        optimizer, losses = torch.optim.Adam([theta], 0.1, betas=(0.8, 0.95)), []
        for _ in range(40):
            optimizer.zero_grad()
            objective(theta)[task].backward()
            optimizer.step()
            losses.append(objective(theta)[task].detach())
        torch.testing.assert_close(run.theta[task], theta.detach(), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(run.losses[:, task], torch.stack(losses), rtol=1e-10, atol=1e-12)


def test_preprocessing_is_the_formula_of_the_paper():
    threshold = math.exp(-10)
    gradient = torch.tensor([1.0, -math.e, 2 * threshold, threshold / 2, -threshold / 4, 0.0], dtype=torch.float64)
    size = [0.0, 0.1, (math.log(2) - 10) / 10, -1.0, -1.0, -1.0]
    sign = [1.0, -1.0, 1.0, 0.5, -0.25, 0.0]
    expected = torch.tensor([size, sign], dtype=torch.float64).T
    torch.testing.assert_close(preprocess(gradient), expected, rtol=1e-12, atol=1e-12)


def test_preprocessing_passes_no_nan_to_its_gradient():
    gradient = torch.tensor([0.0, 1e-30, 3.0], requires_grad=True)
    preprocess(gradient).sum().backward()
    assert gradient.grad.isfinite().all()


def test_a_constant_output_taken_as_a_rate_is_gradient_descent(device):
    learned = lstm(device, relative=True)
    nn.init.zeros_(learned.output.weight)
    nn.init.constant_(learned.output.bias, -0.02 / learned.scale)
    objective, start = problems(device=device)
    ours = unroll(learned, objective, start, learned.init(start), 30)
    descent = gradient_descent(0.02)
    theirs = unroll(descent.update, objective, start, descent.init(start), 30)
    torch.testing.assert_close(ours.losses, theirs.losses, rtol=1e-12, atol=1e-12)


def test_every_coordinate_is_read_by_the_cells_of_torch_with_a_memory_of_its_own(device):
    learned, gradient = lstm(device, scale=1.0), torch.randn(2, 4, dtype=torch.float64, device=device)
    cells = [nn.LSTMCell(n, 3).double().to(device) for n in (2, 3)]
    for ours, theirs in zip(learned.cells, cells, strict=True):
        theirs.load_state_dict(ours.state_dict())
    state, memories = learned.init(gradient), [None, None]
    for _ in range(3):
        step, state = learned(gradient, state)
        x = preprocess(gradient).flatten(0, 1)
        for i, cell in enumerate(cells):
            memories[i] = cell(x, memories[i])
            x = memories[i][0]
        torch.testing.assert_close(step, learned.output(x).view(2, 4), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("relative", [False, True])
def test_coordinates_and_tasks_may_come_in_any_order(relative, device):
    learned = lstm(device, relative=relative)
    gradients = torch.randn(5, 3, 4, dtype=torch.float64, device=device)  # (steps, tasks, d)
    tasks, coordinates = torch.tensor([2, 0, 1]), torch.tensor([3, 1, 0, 2])

    def steps(gradients):
        state, answers = learned.init(gradients[0]), []
        for gradient in gradients:
            step, state = learned(gradient, state)
            answers.append(step)
        return torch.stack(answers)

    reordered = steps(gradients[:, tasks][..., coordinates])
    torch.testing.assert_close(reordered, steps(gradients)[:, tasks][..., coordinates], rtol=1e-12, atol=1e-14)
    assert steps(gradients).std(0).min() > 0  # it is not constant over time


@pytest.mark.parametrize("relative", [False, True])
def test_meta_gradient_is_the_derivative_by_finite_differences(relative, device):
    learned, batch = lstm(device, relative=relative), problems(device=device)
    exact = meta_gradient(learned, batch, steps=7)
    start = {name: p.detach().clone() for name, p in learned.named_parameters()}

    def loss(weights):
        def perturbed(gradient, state):
            return functional_call(learned, weights, (gradient, state))

        return unroll(perturbed, *batch, learned.init(batch.start), 7).losses.mean()

    for seed in range(3):
        torch.manual_seed(seed)
        direction = {name: torch.randn_like(p) for name, p in start.items()}
        plus, minus = ({n: p + eps * direction[n] for n, p in start.items()} for eps in (1e-5, -1e-5))
        slope = exact @ torch.cat([d.flatten() for d in direction.values()])
        torch.testing.assert_close((loss(plus) - loss(minus)).detach() / 2e-5, slope.detach(), rtol=1e-6, atol=1e-8)


def test_without_second_derivatives_the_gradients_are_constants():
    """The same steps, computed with autograd and detached by hand; on a curved objective the result differs."""
    learned, (objective, start) = lstm(relative=True), problems()
    theta, state, losses = start, learned.init(start), []
    for _ in range(5):
        here = theta.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(objective(here).sum(), here)
        step, state = learned(gradient, state)
        theta = theta + step
        losses.append(objective(theta))
    by_hand = torch.autograd.grad(torch.stack(losses).mean(), list(learned.parameters()))
    got = meta_gradient(learned, Problems(objective, start), 5, second_order=False)
    torch.testing.assert_close(got, torch.cat([g.flatten() for g in by_hand]), rtol=1e-10, atol=1e-12)
    assert (got - meta_gradient(learned, Problems(objective, start), 5)).norm() > 1e-3 * got.norm()


@pytest.mark.parametrize("truncation", [None, 6])
@pytest.mark.parametrize("second_order", [False, True])
def test_one_segment_of_full_length_is_no_truncation(truncation, second_order, device):
    learned, batch = lstm(device), problems(device=device)
    whole = TruncatedBackprop(learned, lambda: batch, 6, truncation, second_order)
    loss = whole.backward()
    run = unroll(learned, *batch, learned.init(batch.start), 6)
    torch.testing.assert_close(loss, run.losses.mean().detach())
    expected = meta_gradient(learned, batch, 6, second_order)
    torch.testing.assert_close(flat_gradient(learned), expected, rtol=1e-12, atol=1e-14)


def test_segments_carry_on_and_an_unroll_ends_with_new_problems():
    learned, drawn = lstm(), []

    def sample():
        drawn.append(problems(seed=len(drawn)))
        return drawn[-1]

    truncated = TruncatedBackprop(learned, sample, horizon=6, truncation=2)
    losses = torch.stack([truncated.backward() for _ in range(4)])
    assert len(drawn) == 2
    for batch, seen in ((drawn[0], losses[:3]), (drawn[1], losses[3:])):
        whole = unroll(learned, *batch, learned.init(batch.start), 6).losses.detach()
        torch.testing.assert_close(seen, whole.mean(1).view(3, 2).mean(1)[: len(seen)])


def line(start=0.0, goal=1.0):
    """One task in one dimension, (theta - goal)^2 / 2."""
    return Problems(lambda theta: 0.5 * (theta - goal).square().sum(-1), torch.full((1, 1), start, dtype=torch.float64))


def constant_step_gradients(step, goal, horizon, truncation):
    """True and truncated: theta_t = t * step, so d theta_t / d step is t, or as much of it as a segment sees."""
    t = torch.arange(1, horizon + 1, dtype=torch.float64)
    slope = t * step - goal
    return (t * slope).mean(), (((t - 1) % truncation + 1) * slope).mean()


def test_truncated_gradient_is_biased_as_the_closed_form_says():
    optimizer = ConstantStep(0.05)
    true, truncated = constant_step_gradients(0.05, 1.0, horizon=12, truncation=3)
    got = mean_over_an_unroll(TruncatedBackprop(optimizer, line, 12, 3))
    torch.testing.assert_close(got, truncated[None], rtol=1e-12, atol=1e-14)
    assert abs(truncated - true) > 0.5 * abs(true)
    whole = mean_over_an_unroll(TruncatedBackprop(optimizer, line, 12))
    torch.testing.assert_close(whole, true[None], rtol=1e-12, atol=1e-14)


def repeated(estimator, times=30):
    """Mean and standard error of independent estimates."""
    estimates = torch.stack([mean_over_an_unroll(estimator) for _ in range(times)])
    return estimates.mean(0), estimates.std(0) / times**0.5


def test_pes_is_the_true_gradient_in_the_mean_and_truncated_es_is_not():
    """The loss is quadratic in the noise, so smoothing does not change its gradient."""
    optimizer = ConstantStep(0.05)
    true, truncated = constant_step_gradients(0.05, 1.0, horizon=12, truncation=3)
    mean, error = repeated(PersistentES(optimizer, line, 12, 3, sigma=0.02, pairs=1000))
    assert abs(mean - true) < 4 * error and error < 0.02 * abs(true)
    mean, error = repeated(PersistentES(optimizer, line, 12, 3, sigma=0.02, pairs=1000, persistent=False))
    assert abs(mean - truncated) < 4 * error and abs(mean - true) > 20 * error


def test_pes_of_an_lstm_is_its_meta_gradient_where_truncation_is_biased(device):
    """Along the direction in which they differ, and along the gradient itself."""
    learned, batch = lstm(device, hidden=2, layers=1, scale=0.3), problems(tasks=1, d=2, device=device)
    true = meta_gradient(learned, batch, 8)
    truncated = mean_over_an_unroll(TruncatedBackprop(learned, lambda: batch, 8, 2, second_order=True))
    estimator = PersistentES(learned, lambda: batch, 8, 2, sigma=0.01, pairs=1000)
    estimates = torch.stack([mean_over_an_unroll(estimator) for _ in range(12)])
    for direction in (true / true.norm(), (truncated - true) / (truncated - true).norm()):
        along = estimates @ direction
        mean, error = along.mean(), along.std() / len(along) ** 0.5
        assert abs(mean - true @ direction) < 4 * error
    assert abs(mean - truncated @ direction) > 10 * error


@pytest.mark.parametrize("persistent", [True, False])
def test_pes_is_a_loop_over_particles(persistent, device):
    """Every particle by itself, with the noise that the estimator drew."""
    learned, (objective, start) = lstm(device), problems(device=device)
    estimator = PersistentES(learned, lambda: Problems(objective, start), 6, 2, 0.05, pairs=2, persistent=persistent)
    estimator.backward()
    draws = torch.Generator(device).manual_seed(0)
    weights = {name: p.detach() for name, p in learned.named_parameters()}
    runs = [(start, learned.init(start)) for _ in range(4)]
    memory = [{name: torch.zeros_like(w) for name, w in weights.items()} for _ in range(4)]
    for segment in range(3):
        half = {n: 0.05 * torch.randn(2, *w.shape, generator=draws, device=device, dtype=w.dtype)
                for n, w in weights.items()}  # fmt: skip
        expected = {name: torch.zeros_like(w) for name, w in weights.items()}
        for i, (theta, state) in enumerate(runs):
            noise = {name: h[i % 2] * (1 if i < 2 else -1) for name, h in half.items()}
            moved = {name: w + noise[name] for name, w in weights.items()}
            run = unroll(lambda g, s, moved=moved: functional_call(learned, moved, (g, s)), objective, theta, state, 2)
            memory[i] = {name: persistent * m + noise[name] for name, m in memory[i].items()}
            for name in expected:
                expected[name] += run.losses.mean() * memory[i][name] / (4 * 0.05**2)
            runs[i] = run.theta, run.state
        got = {name: p.grad for name, p in learned.named_parameters()}
        torch.testing.assert_close(got, {n: e.detach() for n, e in expected.items()}, rtol=1e-9, atol=1e-10)
        learned.zero_grad()
        if segment < 2:
            estimator.backward()


def test_gradients_add_up_as_backward_does():
    learned, batch = lstm(), problems()
    for estimator in (TruncatedBackprop(learned, lambda: batch, 4), PersistentES(learned, lambda: batch, 4, pairs=2)):
        learned.zero_grad()
        estimator.backward()
        before = flat_gradient(learned).clone()
        if isinstance(estimator, PersistentES):
            estimator._generator.manual_seed(0)
        estimator.backward()
        torch.testing.assert_close(flat_gradient(learned), 2 * before)


def test_bad_input_is_refused():
    learned = lstm()
    with pytest.raises(ValueError, match="hidden must be a positive integer"):
        LearnedOptimizer(hidden=0)
    with pytest.raises(ValueError, match="must divide the horizon of 10 steps evenly, got 4"):
        TruncatedBackprop(learned, problems, 10, 4)
    with pytest.raises(ValueError, match="horizon must be a positive integer"):
        PersistentES(learned, problems, 0)
    with pytest.raises(ValueError, match="sigma .* must be positive, got 0"):
        PersistentES(learned, problems, 10, sigma=0)
