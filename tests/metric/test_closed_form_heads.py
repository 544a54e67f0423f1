"""Ridge regression against the normal equations, the support vector machine against its optimality conditions and a
peer, and the derivatives of both against finite differences."""

import pytest
import torch
import torch.nn.functional as F
from examples import classification, slopes
from torch import nn
from torch.func import vmap

from metabook import Episode, Set
from metabook.metric.closed_form_heads import R2D2, MetaOptNetSVM, crammer_singer, ridge
from metabook.metric.prototypical_networks import prototypes
from metabook.networks import mlp
from metabook.tasks import LinearGaussian


def doubles(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def clusters(examples, features, ways, scale=1.0):
    """Embeddings around random class means, and their labels."""
    y = torch.arange(examples) % ways
    return scale * (doubles(ways, features)[y] + doubles(examples, features)), y


LEARNERS = {"ridge": lambda encoder, ways: R2D2(encoder, ways, 0.5, scale=3.0), "svm": MetaOptNetSVM}


def head(name, ways=3, encoder=None, device="cpu"):
    """A learner on inputs of 5 features; the same weights at every call."""
    torch.manual_seed(0)
    return LEARNERS[name](encoder or mlp([5, 8, 6]), ways).double().to(device)


# ridge regression


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (5, 5)])
def test_ridge_solves_the_normal_equations_in_either_form(shape, device):
    x, targets, strength = doubles(*shape).to(device), doubles(shape[0], 3).to(device), 0.7
    weights = ridge(x, targets, strength)
    torch.testing.assert_close(x.T @ (x @ weights - targets) + strength * weights, torch.zeros_like(weights))
    primal = torch.linalg.solve(x.T @ x + strength * torch.eye(shape[1], device=device).double(), x.T @ targets)
    woodbury = x.T @ torch.linalg.solve(x @ x.T + strength * torch.eye(shape[0], device=device).double(), targets)
    torch.testing.assert_close(weights, primal)
    torch.testing.assert_close(weights, woodbury)


@pytest.mark.parametrize("shape", [(3, 5), (5, 3)])
def test_ridge_has_the_derivatives_of_finite_differences(shape):
    inputs = doubles(*shape), doubles(shape[0], 2), torch.tensor(0.5, dtype=torch.float64)
    inputs = tuple(t.requires_grad_() for t in inputs)
    assert torch.autograd.gradcheck(ridge, inputs)
    assert torch.autograd.gradgradcheck(ridge, inputs)


def test_ridge_in_single_precision_survives_bad_conditioning():
    """Nearly equal examples and hardly any regularisation: a Gram matrix of float32 would not be positive definite."""
    x = (torch.ones(6, 20, dtype=torch.float64) + 1e-5 * doubles(6, 20)).float()
    targets = doubles(6, 3).float()
    weights = ridge(x, targets, 1e-9)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights, ridge(x.double(), targets.double(), 1e-9).float())
    assert (x @ weights - targets).norm() < targets.norm()


def test_ridge_with_more_regularization_shrinks_to_zero_and_with_none_fits_exactly():
    x, targets = doubles(4, 9), doubles(4, 3)
    norms = [ridge(x, targets, strength).norm() for strength in (1e-10, 1.0, 100.0, 1e6)]
    assert norms == sorted(norms, reverse=True) and norms[-1] < 1e-4
    torch.testing.assert_close(x @ ridge(x, targets, 1e-10), targets, rtol=1e-6, atol=1e-6)


def test_ridge_at_the_ratio_of_noise_to_variety_is_the_posterior_mean():
    tasks = LinearGaussian(6, shots=4, prior_mean=0.0, prior_std=0.8, noise=0.3, dtype=torch.float64)
    support, _ = tasks.sample(3, tasks.generator(0))
    weights = vmap(lambda s: ridge(s.x, s.y, 0.3**2 / 0.8**2))(support)
    torch.testing.assert_close(weights[..., 0], tasks.posterior(support).mean)


def test_a_huge_regularization_adds_up_the_embeddings_of_each_class():
    x, y = clusters(12, 20, 4)
    weights = 1e8 * ridge(x, F.one_hot(y, 4).double(), 1e8)
    torch.testing.assert_close(weights.T / 3, prototypes(x, y, 4), rtol=1e-5, atol=1e-5)


def test_only_the_regularization_relative_to_the_squared_length_of_the_embeddings_matters():
    x, queries, targets = doubles(5, 9), doubles(7, 9), doubles(5, 3)
    torch.testing.assert_close(10 * queries @ ridge(10 * x, targets, 50.0), queries @ ridge(x, targets, 0.5))


def test_r2d2_is_ridge_regression_with_a_constant_feature_then_scale_and_bias():
    episode, learner = classification(tasks=1), R2D2(nn.Identity(), 3, 0.5, scale=2.0, bias=0.3).double()
    x, y = episode.support.x[0], episode.support.y[0]
    ones = torch.ones(len(x), 1, dtype=torch.float64)
    weights = ridge(torch.cat([x, ones], 1), F.one_hot(y, 3).double(), 0.5)
    queries = torch.cat([episode.query.x[0], ones], 1)
    torch.testing.assert_close(learner(episode)[0], 2.0 * queries @ weights + 0.3, rtol=1e-6, atol=1e-6)


def test_the_bias_of_the_logits_has_no_effect_on_the_loss():
    """It shifts the logits of all classes alike, which a softmax does not see."""
    episode, learner = classification(), head("ridge")
    learner.meta_loss(episode).backward()
    assert learner.bias.grad.abs() < 1e-12 < learner.scale.grad.abs()


# support vector machine


def violations(x, y, ways, C, alpha):
    """By how much the optimality conditions are missed; alpha in units of C, multipliers in units of the margin, 1."""
    labels = F.one_hot(y, ways).double()
    gradient = labels - x @ (x.T @ alpha)  # of the dual objective: multiplier + shift
    multiplier = gradient - gradient.amin(1, keepdim=True)
    slack = C * labels - alpha
    return {
        "bounds": (-slack).clamp(min=0).max() / C,
        "sums": alpha.sum(1).abs().max() / C,
        "complementarity": (multiplier * slack).abs().max() / C,
    }


@pytest.mark.parametrize(
    ("examples", "features", "ways", "scale", "C"),
    [
        (5, 64, 5, 1.0, 0.1),
        (25, 64, 5, 1.0, 0.1),
        (25, 64, 5, 100.0, 0.1),
        (25, 64, 5, 0.01, 0.1),
        (25, 8, 5, 1.0, 0.1),
        (25, 3, 5, 1.0, 1.0),
        (40, 64, 20, 1.0, 0.1),
        (12, 4, 2, 1.0, 10.0),
    ],
)
def test_the_svm_satisfies_the_optimality_conditions(examples, features, ways, scale, C):
    """With more features than examples and fewer, small and large features, few and many bounds reached."""
    x, y = clusters(examples, features, ways, scale)
    missed = violations(x, y, ways, C, crammer_singer(x, y, ways, C))
    assert all(value < 1e-5 for value in missed.values()), missed


@pytest.mark.parametrize(("features", "C"), [(20, 0.1), (4, 0.5)])
def test_the_svm_is_that_of_scikit_learn(features, C):
    svm = pytest.importorskip("sklearn.svm")
    x, y = clusters(16, features, 4)
    peer = svm.LinearSVC(multi_class="crammer_singer", C=C, fit_intercept=False, tol=1e-9, max_iter=100_000).fit(x, y)
    weights = x.T @ crammer_singer(x, y, 4, C)
    torch.testing.assert_close(weights, torch.tensor(peer.coef_.T), rtol=1e-5, atol=1e-6)


def test_orthogonal_examples_are_solved_in_closed_form():
    """Two classes of one example each: alpha = a on the label and -a on the other class, a = min(C, 1 / (2 ||x||^2)).

    The margin of such an example is 2 a ||x||^2, and it has to be 1 unless C is too small.
    """
    x, y = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64), torch.tensor([0, 1])
    for C, a, b in ((10.0, 1 / 2, 1 / 8), (0.2, 0.2, 1 / 8), (0.1, 0.1, 0.1)):
        expected = torch.tensor([[a, -a], [-b, b]], dtype=torch.float64)
        torch.testing.assert_close(crammer_singer(x, y, 2, C), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("examples", "features", "C"), [(6, 8, 0.1), (6, 8, 10.0), (9, 3, 0.2)])
def test_the_svm_has_the_derivative_of_finite_differences(examples, features, C):
    x, y = clusters(examples, features, 3)
    assert torch.autograd.gradcheck(
        lambda x: x.T @ crammer_singer(x, y, 3, C), (x.requires_grad_(),), atol=1e-6, rtol=1e-6
    )


def test_an_svm_of_single_precision_is_solved_in_double():
    """With fewer features than examples, so that rounding would make the Gram matrix indefinite."""
    x, y = clusters(25, 3, 5)
    alpha = crammer_singer(x.float(), y, 5)
    assert alpha.dtype == torch.float32
    torch.testing.assert_close(alpha, crammer_singer(x.float().double(), y, 5).float())


def test_examples_given_twice_at_half_the_price_change_nothing():
    """The same objective, with a Gram matrix that is singular."""
    x, y = clusters(9, 12, 3)
    once = x.T @ crammer_singer(x, y, 3, 0.2)
    twice = torch.cat([x, x]).requires_grad_()
    weights = twice.T @ crammer_singer(twice, torch.cat([y, y]), 3, 0.1)
    torch.testing.assert_close(weights, once, rtol=1e-5, atol=1e-7)
    weights.square().sum().backward()
    first, second = twice.grad.chunk(2)
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_embeddings_that_are_zero_or_equal_give_finite_gradients(name, dtype):
    y = torch.tensor([0, 0, 1, 1, 2, 2])
    for x in (torch.zeros(6, 4), torch.ones(6, 4), 1e3 * torch.eye(6)[[0, 0, 1, 1, 2, 2], :4]):
        x = x.to(dtype).requires_grad_()
        learner = LEARNERS[name](nn.Identity(), 3).to(dtype)
        loss = learner.predict(learner.adapt(Set(x, y)), x).square().sum()
        loss.backward()
        assert loss.isfinite() and x.grad.isfinite().all()


# both


@pytest.mark.parametrize("name", LEARNERS)
def test_a_batch_of_tasks_is_a_loop_over_tasks(name, device):
    episode, learner = classification(device=device), head(name, device=device)
    prediction = learner(episode)
    for task in range(episode.tasks):
        state = learner.adapt(Set(episode.support.x[task], episode.support.y[task]))
        torch.testing.assert_close(learner.predict(state, episode.query.x[task]), prediction[task])
    losses = torch.stack([learner.meta_loss(part) for part in episode.split(1)])
    torch.testing.assert_close(learner.meta_loss(episode), losses.mean())


@pytest.mark.parametrize("name", LEARNERS)
def test_the_meta_gradient_is_that_of_finite_differences(name):
    """Through vmap, encoder and head, along a random direction of all parameters."""
    episode, learner = classification(shots=3), head(name)
    finite, exact = slopes(learner, episode, step=1e-6)
    torch.testing.assert_close(finite, exact, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", LEARNERS)
def test_the_gradient_of_torch_func_is_that_of_autograd(name):
    """As `meta_gradient` takes it when it traces a learner."""
    episode, learner = classification(), head(name)
    weights = dict(learner.named_parameters())
    gradients = torch.func.grad(
        lambda w: learner.loss(torch.func.functional_call(learner, w, (episode,)), episode.query.y)
    )(weights)
    learner.meta_loss(episode).backward()
    for key, parameter in weights.items():
        torch.testing.assert_close(gradients[key], parameter.grad)


@pytest.mark.parametrize("name", LEARNERS)
def test_neither_the_order_of_the_support_nor_the_names_of_the_classes_matter(name):
    episode, learner = classification(), head(name)
    order, names = torch.tensor([3, 0, 5, 1, 4, 2]), torch.tensor([2, 0, 1])
    changed = Episode(
        Set(episode.support.x[:, order], names[episode.support.y[:, order]]),
        Set(episode.query.x, names[episode.query.y]),
    )
    torch.testing.assert_close(learner(changed)[..., names], learner(episode), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", LEARNERS)
def test_more_ways_than_the_episode_has_changes_nothing(name):
    """A class without support is never predicted, and the others are solved as if there were no such class."""
    episode, gradients, answers = classification(), [], []
    for ways in (3, 10):
        learner = head(name, ways)
        learner.meta_loss(episode).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in learner.parameters()]))
        answers.append(learner(episode))
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(answers[1][..., :3], answers[0], rtol=1e-6, atol=1e-9)
    assert (answers[1][..., 3:] == -torch.inf).all()


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("y", [[0, 1, 2], [0, 1, 1, 1, 2, 2], [1, 1]])
def test_any_number_of_shots_per_class_is_learned(name, y):
    """One example per class, unequal shots, and a single class, which is all there is to answer."""
    y = torch.tensor(y)
    x = 3 * torch.eye(6, dtype=torch.float64)[y] + 0.1 * doubles(len(y), 6)
    learner = head(name, encoder=nn.Identity())
    answers = learner.predict(learner.adapt(Set(x, y)), x)
    assert (answers.argmax(-1) == y).all()
    assert (answers.isfinite() == torch.isin(torch.arange(3), y)).all()


def test_a_batch_may_hold_tasks_whose_classes_differ_in_number():
    x, ys = doubles(2, 6, 5), torch.tensor([[0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 1]])
    both = vmap(lambda x, y: crammer_singer(x, y, 3))(x, ys)
    for alpha, x_one, y in zip(both, x, ys, strict=True):
        torch.testing.assert_close(alpha, crammer_singer(x_one, y, 3), rtol=1e-6, atol=1e-9)
    assert (both[1, :, 2] == 0).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: R2D2(nn.Identity(), 1), "at least 2 ways, got 1"),
        (lambda: R2D2(nn.Identity(), 3, regularization=0.0), "regularization must be positive and finite, got 0.0"),
        (lambda: R2D2(nn.Identity(), 3, scale=float("nan")), "scale must be positive and finite, got nan"),
        (lambda: R2D2(nn.Identity(), 3, bias=float("inf")), "bias must be finite, got inf"),
        (lambda: MetaOptNetSVM(nn.Identity(), 1), "at least 2 ways, got 1"),
        (lambda: MetaOptNetSVM(nn.Identity(), 3, C=-0.1), "C must be positive and finite, got -0.1"),
        (lambda: MetaOptNetSVM(nn.Identity(), 3, scale=0.0), "scale must be positive and finite, got 0.0"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
