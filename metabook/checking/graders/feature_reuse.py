"""Graders of the chapter optimization/feature_reuse."""

from typing import Any

import torch
from torch import Tensor

from metabook.checking.compare import Hint, one_of, same_function
from metabook.metric.prototypical_networks import prototypes
from metabook.optimization.feature_reuse import cka


def _first(d: int) -> Tensor:
    return (torch.arange(d) == 0).double()


def _random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _one_step(features: Tensor, y: Tensor, x: Tensor, ways: int, inner_lr: float) -> Tensor:
    return inner_lr / ways * x @ (prototypes(features, y, ways) - features.mean(0)).T


def _summed(features: Tensor, y: Tensor, x: Tensor, ways: int, inner_lr: float) -> Tensor:
    return len(y) * _one_step(features, y, x, ways, inner_lr)


def _cka(a: Tensor, b: Tensor) -> Tensor:
    a, b = a - a.mean(0), b - b.mean(0)
    return (a.T @ b).square().sum() / ((a.T @ a).norm() * (b.T @ b).norm())


def _cka_not_centred(a: Tensor, b: Tensor) -> Tensor:
    return (a.T @ b).square().sum() / ((a.T @ a).norm() * (b.T @ b).norm())


def _cka_not_squared(a: Tensor, b: Tensor) -> Tensor:
    a, b = a - a.mean(0), b - b.mean(0)
    return (a.T @ b).norm() / ((a.T @ a).norm() * (b.T @ b).norm())


def _cka_of_norms(a: Tensor, b: Tensor) -> Tensor:
    a, b = a - a.mean(0), b - b.mean(0)
    return (a.T @ b).square().sum() / (a.norm() * b.norm()) ** 2


WRONG = {
    "zero_head": [
        ("boil", "Which way does the gradient of the features come: past the head, or through its weights?"),
        ("both", "The gradient of the features passes through the weights of the head. What are these?"),
        ("neither", "All classes have the same probability, which is wrong for every example: whose gradient is that?"),
    ],
    "one_step": [
        (
            lambda features, y, x, ways, inner_lr: inner_lr * x @ prototypes(features, y, ways).T,
            "How probable is each class before the step? It is pulled towards its own examples and pushed from all.",
        ),
        (
            lambda features, y, x, ways, inner_lr: ways * _one_step(features, y, x, ways, inner_lr),
            "The loss is a mean over all examples: which share of them belongs to one class?",
        ),
        (_summed, "This is the step of the summed loss. The loss is a mean over examples."),
        (
            lambda features, y, x, ways, inner_lr: -_one_step(features, y, x, ways, inner_lr),
            "The sign: a step goes against the gradient.",
        ),
        (
            lambda features, y, x, ways, inner_lr: inner_lr / ways * x @ prototypes(features, y, ways).T,
            "This gives the same predictions, but not yet the logits of the step: every class also loses its share of "
            "all examples.",
        ),
    ],
    "cka_of_features": [
        (_cka_not_centred, "Centre the columns first: what does adding a constant to a feature do to yours?"),
        (_cka_not_squared, "The norm in the numerator is squared: is yours 1 for a representation and itself?"),
        (_cka_of_norms, "The denominator holds the norms of A'A and B'B, not of A and B."),
    ],
    "fooled": [
        (lambda features: 3 * features, "cka does not see a common scale: it is still 1.00."),
        (lambda features: features.flip(1), "cka does not see the order of the units: it is still 1.00."),
        (lambda features: features.square(), "a head could not undo this: it is not a linear map of the features."),
        (
            lambda features: features * _first(features.shape[1]),
            "this loses features that a head may need.",
        ),
        (lambda features: features * (1 + _first(features.shape[1])), "the right idea, but too tame"),
        (lambda features: features[:, :3], "keep the shape"),
    ],
}


def zero_head(answer: Any) -> None:
    """only ANIL: the gradient of the head needs features, that of the features needs a head."""
    one_of(answer, "anil", dict(WRONG["zero_head"]))


def one_step(answer: Any) -> None:
    """alpha / N times f(x) . (c_k - m): one step from zeros compares a query with the class means."""
    cases = []
    for ways, shots, d in ((3, 1, 4), (5, 2, 6), (2, 3, 3)):
        y = torch.arange(ways).repeat_interleave(shots)
        cases.append((_random(ways * shots, d, seed=d), y, _random(7, d, seed=d + 1), ways, 0.3 * ways))
    same_function(answer, _one_step, cases, wrong=WRONG["one_step"])


def cka_of_features(answer: Any) -> None:
    """||A'B||^2 / (||A'A|| ||B'B||) of the centred features, without any matrix of examples by examples."""
    cases = []
    for examples, d, seed in ((20, 3, 0), (9, 5, 2)):
        a = _random(examples, d, seed=seed) + 1
        cases.append((a, a[:, :2] + 0.5 * _random(examples, 2, seed=seed + 1)))
    same_function(answer, _cka, cases, wrong=WRONG["cka_of_features"])


def fooled(answer: Any) -> None:
    """a linear map that a head can undo, and that CKA takes for another representation."""
    if not callable(answer):
        raise Hint("a function is asked for.")
    features = _random(200, 16, seed=0)
    changed = torch.as_tensor(answer(features.clone())).to(torch.float64)
    if changed.shape != features.shape:
        raise Hint(f"keep the shape {tuple(features.shape)}; this has {tuple(changed.shape)}.")
    with_constant = torch.cat([features, torch.ones(200, 1, dtype=torch.float64)], dim=1)
    fit = with_constant @ torch.linalg.lstsq(with_constant, changed).solution
    if (fit - changed).norm() > 1e-6 * changed.norm():
        raise Hint("a head could not undo this: it is not a linear map of the features.")
    if torch.linalg.matrix_rank(changed - changed.mean(0)) < features.shape[1]:
        raise Hint("this loses features that a head may need.")
    similarity = cka(features, changed).item()
    if similarity > 0.999:
        kind = "the order of the units" if changed.norm().isclose(features.norm()) else "a common scale"
        raise Hint(f"cka does not see {kind}: it is still {similarity:.2f}.")
    if similarity > 0.5:
        raise Hint(f"the right idea, but too tame: cka is still {similarity:.2f}.")
