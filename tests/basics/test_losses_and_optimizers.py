"""Losses and optimisers: the steps are torch's, the losses are densities, and training is a function."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, jacfwd, jacrev, vmap

from metabook.basics.losses_and_optimizers import (
    adam,
    amsgrad,
    apply_step,
    categorical_nll,
    gaussian_nll,
    gradient_descent,
    momentum,
    rmsprop,
    train,
    trajectory,
)

PAIRS = {
    "gradient descent": (gradient_descent(0.05), lambda p: torch.optim.SGD(p, 0.05)),
    "momentum": (momentum(0.03, 0.8), lambda p: torch.optim.SGD(p, 0.03, momentum=0.8)),
    "Nesterov": (momentum(0.03, 0.8, True), lambda p: torch.optim.SGD(p, 0.03, momentum=0.8, nesterov=True)),
    "RMSProp": (rmsprop(0.01, 0.95, 1e-6), lambda p: torch.optim.RMSprop(p, 0.01, alpha=0.95, eps=1e-6)),
    "Adam": (adam(0.02, (0.8, 0.95), 1e-6), lambda p: torch.optim.Adam(p, 0.02, betas=(0.8, 0.95), eps=1e-6)),
    "AMSGrad": (amsgrad(0.02, (0.8, 0.9)), lambda p: torch.optim.Adam(p, 0.02, betas=(0.8, 0.9), amsgrad=True)),
}
SMOOTH = {
    "gradient descent": gradient_descent(0.1),
    "momentum": momentum(0.1, 0.7),
    "Nesterov": momentum(0.1, 0.7, nesterov=True),
    "RMSProp": rmsprop(0.05, 0.9, eps_root=1e-3),
    "Adam": adam(0.05, (0.8, 0.9), eps_root=1e-3),
    "AMSGrad": amsgrad(0.05, (0.8, 0.9), eps_root=1e-3),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def loss(weights, batch):
    x, y = batch
    hidden = torch.tanh(x @ weights["first"][0] + weights["first"][1])
    return F.mse_loss(hidden @ weights["second"], y)


def start():
    return {"first": (draw(3, 5), draw(5, seed=1)), "second": draw(5, 2, seed=2)}


def batches(steps):
    x, y = draw(steps, 8, 3, seed=3), draw(steps, 8, 2, seed=4)
    return list(zip(x, y, strict=True))


@pytest.mark.parametrize("name", PAIRS)
def test_a_hundred_steps_are_those_of_torch(name):
    ours, make = PAIRS[name]
    theirs = start()
    parameters = [t.requires_grad_() for t in (*theirs["first"], theirs["second"])]
    optimizer = make(parameters)
    for weights, batch in zip(trajectory(ours, loss, start(), batches(100)), batches(100), strict=True):
        optimizer.zero_grad()
        loss(theirs, batch).backward()
        optimizer.step()
        for a, b in zip((*weights["first"], weights["second"]), parameters, strict=True):
            torch.testing.assert_close(a, b.detach(), rtol=0, atol=1e-10)


def bowl(weights, batch):
    """Not quadratic, and without a corner."""
    return (weights.cosh() * torch.arange(1, 4, dtype=weights.dtype)).sum() + (weights[0] * weights[1]).sin()


@pytest.mark.parametrize("name", SMOOTH)
def test_the_jacobian_of_training_is_that_of_finite_differences(name):
    def trained(weights):
        return train(SMOOTH[name], bowl, weights, range(6))

    at, h = draw(3, seed=5), 1e-6
    columns = [(trained(at + h * e) - trained(at - h * e)) / (2 * h) for e in torch.eye(3, dtype=torch.float64)]
    for differentiate in (jacrev, jacfwd):
        torch.testing.assert_close(differentiate(trained)(at), torch.stack(columns, 1), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["RMSProp", "Adam", "AMSGrad"])
def test_a_weight_without_gradient_needs_the_constant_inside_the_root(name):
    make = {"RMSProp": rmsprop, "Adam": adam, "AMSGrad": amsgrad}[name]

    def half(weights, batch):
        pixels = torch.tensor([1.0, 0.0], dtype=torch.float64)  # the second is never inked
        return (pixels @ weights - 3) ** 2

    at = torch.tensor([1.0, 1.0], dtype=torch.float64)
    for eps_root, finite in ((0.0, False), (1e-12, True)):
        optimizer = make(0.1, eps_root=eps_root)
        jacobian = jacrev(lambda w, o=optimizer: train(o, half, w, range(3)))(at)
        assert jacobian.isfinite().all() == finite
    assert jacobian[1].tolist() == [0.0, 1.0]


def test_gradient_descent_on_a_bowl_is_a_power_of_a_matrix():
    root, centre = draw(4, 4), draw(4, seed=1)
    hessian = root @ root.T

    def quadratic(weights, lr):
        return 0.5 * (weights - centre) @ hessian @ (weights - centre)

    for rates in ([0.05] * 7, [0.1, 0.02, 0.07]):
        at, product = draw(4, seed=2), torch.eye(4, dtype=torch.float64)
        for lr in rates:
            at = train(gradient_descent(lr), quadratic, at, range(1))
            product = (torch.eye(4) - lr * hessian) @ product
        torch.testing.assert_close(at, centre + product @ (draw(4, seed=2) - centre))
    jacobian = jacrev(lambda w: train(gradient_descent(0.05), quadratic, w, range(7)))(at)
    torch.testing.assert_close(jacobian, torch.linalg.matrix_power(torch.eye(4) - 0.05 * hessian, 7))


@pytest.mark.parametrize("name", SMOOTH)
def test_many_starts_at_once_are_each_start_alone(name):
    optimizer, starts = SMOOTH[name], draw(4, 3)
    together = vmap(lambda w: train(optimizer, bowl, w, range(5)))(starts)
    for one, result in zip(starts, together, strict=True):
        torch.testing.assert_close(result, train(optimizer, bowl, one, range(5)))
    states = vmap(optimizer.init)(starts)  # a state is made of tensors, so it can be lifted as well
    step, _ = vmap(optimizer.update)(starts, states)
    torch.testing.assert_close(step[2], optimizer.update(starts[2], optimizer.init(starts[2]))[0])


@pytest.mark.parametrize("make", [gradient_descent, momentum, rmsprop, adam, amsgrad])
def test_the_rate_can_be_a_tensor(make):
    at, h = draw(3), 1e-6

    def end(lr):
        return bowl(train(make(lr), bowl, at, range(4)), None)

    lr = torch.tensor(0.03, dtype=torch.float64)
    torch.testing.assert_close(grad(end)(lr), (end(lr + h) - end(lr - h)) / (2 * h), rtol=1e-5, atol=1e-8)
    rates = torch.tensor([0.01, 0.03], dtype=torch.float64)
    torch.testing.assert_close(vmap(end)(rates)[1], end(0.03))


@pytest.mark.parametrize("name", PAIRS)
def test_nothing_is_changed_in_place(name):
    optimizer, weights, gradient = PAIRS[name][0], draw(3), draw(3, seed=1)
    state = optimizer.init(weights)
    _, state = optimizer.update(gradient, state)
    before = [t.clone() for t in torch.utils._pytree.tree_leaves((weights, gradient, state))]
    first, second = (optimizer.update(gradient, state)[0] for _ in range(2))
    apply_step(weights, first)
    assert torch.equal(first, second)
    after = torch.utils._pytree.tree_leaves((weights, gradient, state))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_steps_have_the_dtype_of_the_weights(dtype):
    for optimizer, _ in PAIRS.values():
        weights = torch.ones(3, dtype=dtype)
        step, _ = optimizer.update(weights, optimizer.init(weights))
        assert step.dtype == dtype and step.isfinite().all()


def test_the_first_step_of_adam_has_the_length_of_the_rate():
    gradient = torch.tensor([1e-3, -5.0, 1e4], dtype=torch.float64)
    optimizer = adam(0.01)
    step, _ = optimizer.update(gradient, optimizer.init(gradient))
    torch.testing.assert_close(step, -0.01 * gradient.sign(), rtol=1e-4, atol=0)


def test_no_batches_are_no_step():
    weights = start()
    assert train(adam(0.1), loss, weights, []) is weights


def test_gaussian_loss_is_the_density_of_torch():
    prediction, target, variance = draw(6, 2), draw(6, 2, seed=1), draw(6, 2, seed=2).exp()
    right = -torch.distributions.Normal(prediction, variance.sqrt()).log_prob(target).mean()
    torch.testing.assert_close(gaussian_nll(prediction, target, variance), right)
    half = gaussian_nll(prediction, target, 0.5)
    torch.testing.assert_close(half, F.mse_loss(prediction, target) + math.log(math.pi) / 2)


def test_categorical_loss_is_the_probability_of_torch_and_its_gradient_softmax_minus_onehot():
    logits, labels = 3 * draw(7, 4), torch.arange(7) % 4
    right = -torch.distributions.Categorical(logits=logits).log_prob(labels).mean()
    torch.testing.assert_close(categorical_nll(logits, labels), right)
    torch.testing.assert_close(
        grad(categorical_nll)(logits, labels), (logits.softmax(1) - F.one_hot(labels, 4)) / len(labels)
    )
    assert torch.autograd.gradcheck(lambda z: categorical_nll(z, labels), logits.requires_grad_())
    lifted = vmap(grad(categorical_nll), (0, None))(torch.stack([logits, 2 * logits]).detach(), labels)
    torch.testing.assert_close(lifted[1], grad(categorical_nll)(2 * logits.detach(), labels))
    large = torch.tensor([[1000.0, -1000.0]])
    assert categorical_nll(large, torch.tensor([1])) == 2000


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gradient_descent(0.0), "lr must be positive and finite, got 0.0"),
        (lambda: momentum(0.1, 1.0), "momentum must be at least 0 and below 1, got 1.0"),
        (lambda: rmsprop(0.1, decay=-0.1), "decay must be at least 0 and below 1, got -0.1"),
        (lambda: adam(0.1, (0.9, 1.0)), "beta2 must be at least 0 and below 1, got 1.0"),
        (lambda: adam(float("nan")), "lr must be positive and finite, got nan"),
        (lambda: amsgrad(0.1, eps=-1.0), "eps must be finite and not negative, got -1.0"),
        (lambda: gaussian_nll(torch.ones(3), torch.ones(3, 1)), r"one shape, got \(3,\), \(3, 1\)"),
        (lambda: categorical_nll(torch.ones(3, 2), torch.ones(3)), r"got \(3, 2\) and torch.float32 \(3,\)"),
        (lambda: categorical_nll(torch.ones(3, 2), torch.zeros(2, dtype=torch.int64)), r"expected, got \(3, 2\)"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
