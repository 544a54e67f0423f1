"""The limits of deep learning as measurements: many networks trained side by side, and what is asked of them.

*Data.*  J. Hestness et al., "Deep Learning Scaling is Predictable, Empirically", arXiv 1712.00409 (2017): the error of
a network falls with the number n of its training examples like a power,

    error(n) = a n^-b        a straight line of slope -b where both axes are logarithmic.

*Shift.*  A picture turned by an angle, by bilinear interpolation, differentiable in both.

*Opacity.*  The saliency of K. Simonyan, A. Vedaldi, A. Zisserman, "Deep Inside Convolutional Networks", ICLR workshop
2014: the derivative of the score f_c of a class with respect to the input, d f_c(x) / dx.  The one-step adversary of
I. Goodfellow, J. Shlens, C. Szegedy, "Explaining and Harnessing Adversarial Examples", ICLR 2015:

    x + eps sign(d L(x, y) / dx).

*Few points.*  The Bayes-optimal answer for waves A sin(x - p) with noise, from a grid over amplitude and phase.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from metabook.episode import Set
from metabook.learner import task_loss
from metabook.tasks.distribution import check_counts
from metabook.tasks.sinusoids import Sinusoids, Waves


class Ensemble:
    """Networks of one shape, kept side by side: a prediction of all of them is one call.

    Args:
        networks: modules of the same structure, without batch statistics.

    Raises:
        ValueError: no network, or networks of different shapes.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        shapes = {tuple((name, w.shape) for name, w in network.named_parameters()) for network in networks}
        if len(shapes) != 1:
            raise ValueError(f"an ensemble needs networks of one shape, got {len(shapes)} shapes")
        self.weights, self.buffers = stack_module_state(list(networks))  # (runs, *shape) each
        self._shape = copy.deepcopy(networks[0]).to("meta")
        self._runs = len(networks)

    def __len__(self) -> int:
        return self._runs

    def __call__(self, x: Tensor) -> Tensor:
        """All networks on the same `x (examples, *features)`: `(runs, examples, outputs)`."""
        return vmap(self._one, in_dims=(0, 0, None))(self.weights, self.buffers, x)

    def each(self, x: Tensor) -> Tensor:
        """Every network on examples of its own, `x (runs, examples, *features)`: `(runs, examples, outputs)`."""
        return vmap(self._one)(self.weights, self.buffers, x)

    def _one(self, weights: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(self._shape, (weights, buffers), (x,))


def train(
    networks: Sequence[nn.Module],
    x: Tensor,
    y: Tensor,
    *,
    steps: int,
    lr: float = 3e-3,
    batch: int | None = None,
    generator: torch.Generator | None = None,
    trained: Collection[str] | None = None,
) -> Ensemble:
    """Train networks side by side, each on a training set of its own, by Adam.

    The loss is the mean over examples (cross-entropy for classes, squared error for values), and its sum over the
    networks is descended: no network feels another, so each becomes what it would have become alone.

    Args:
        networks: `runs` modules of one shape; they are left as they are.
        x: `(runs, examples, *features)`.
        y: int64 `(runs, examples)` or float `(runs, examples, outputs)`.
        steps: of Adam.
        lr: its rate.
        batch: examples per step, drawn anew for each network with `torch.randint(examples, (runs, batch))`; None for
            all of them, always.
        generator: of the minibatches.
        trained: names of the weights that are trained, as in `network.named_parameters()`; the others stay as they
            are, frozen.  All of them by default.

    Raises:
        ValueError: counts below one, not one training set for each network, or a name that no weight has.
    """
    check_counts(steps=steps, batch=1 if batch is None else batch)
    if not len(networks) == len(x) == len(y) or x.shape[:2] != y.shape[:2]:
        raise ValueError(
            f"{len(networks)} networks need as many training sets, got x {tuple(x.shape)} and y {tuple(y.shape)}; "
            "the first dimension counts networks, the second examples"
        )
    ensemble = Ensemble(networks)
    if unknown := set(trained or ()) - set(ensemble.weights):
        raise ValueError(f"no weight is called {sorted(unknown)}; the network has {', '.join(ensemble.weights)}")
    for name, weight in ensemble.weights.items():
        weight.requires_grad_(trained is None or name in trained)
    optimizer = torch.optim.Adam([w for w in ensemble.weights.values() if w.requires_grad], lr=lr)
    runs, examples = x.shape[:2]
    every = torch.arange(runs, device=x.device)[:, None]
    for _ in range(steps):
        rows = slice(None) if batch is None else torch.randint(examples, (runs, batch), generator=generator)
        inputs, targets = (x, y) if batch is None else (x[every, rows], y[every, rows])
        loss = runs * task_loss(ensemble.each(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for weight in ensemble.weights.values():
        weight.requires_grad_(False)
    return ensemble


def balanced_order(labels: Tensor, generator: torch.Generator) -> Tensor:
    """A random order of examples in which the classes take turns for as long as they last.

    The first n of them are a training set that is balanced as far as n allows; a longer one contains the shorter ones.

    Args:
        labels: int64 `(examples,)`.
        generator: of the order.

    Returns:
        int64 `(examples,)`, a permutation.
    """
    shuffled = torch.randperm(len(labels), generator=generator)
    ranks = torch.empty(len(labels))
    for k in labels.unique():
        own = labels[shuffled] == k
        ranks[own] = torch.arange(int(own.sum())) + 0.9 * torch.rand(int(own.sum()), generator=generator)
    return shuffled[ranks.argsort()]


@dataclass(frozen=True)
class PowerLaw:
    """`error(n) = scale * n ** slope`, with the 95 % interval of the slope, `low` to `high`."""

    scale: float
    slope: float
    low: float
    high: float

    def __call__(self, n: Tensor | float) -> Tensor | float:
        """The error at n examples."""
        return self.scale * n**self.slope


def power_law(sizes: Tensor, errors: Tensor, generator: torch.Generator, resamples: int = 1000) -> PowerLaw:
    """Least squares on logarithmic axes through the mean over rows, and an interval by resampling the rows.

    The interval speaks about the rows: with a row for each training run, about other runs judged on the same test
    examples; with a row for each test example, about other examples judged by the same networks.

    Args:
        sizes: `(sizes,)` numbers of training examples, at least two.
        errors: `(rows, sizes)`; the mean over rows must be positive.
        generator: of the bootstrap.
        resamples: of the bootstrap.

    Raises:
        ValueError: shapes that do not fit, or a mean error of zero, which has no logarithm.
    """
    if errors.ndim != 2 or sizes.ndim != 1 or errors.shape[1] != len(sizes) or len(sizes) < 2 or len(errors) < 2:
        raise ValueError(
            f"power_law needs sizes (k,) and errors (rows, k) with at least two of both, got {tuple(sizes.shape)} and "
            f"{tuple(errors.shape)}"
        )
    errors = errors.double()
    mean = errors.mean(0)
    if mean.min() <= 0:
        raise ValueError("an error of zero has no logarithm; leave the size out, or judge on more examples")
    design = sizes.double().log()
    centred = design - design.mean()

    def slope(means: Tensor) -> Tensor:
        return means.log() @ centred / centred.square().sum()

    rows = torch.randint(len(errors), (resamples, len(errors)), generator=generator)
    counts = torch.zeros(resamples, len(errors), dtype=torch.float64).scatter_add_(
        1, rows, torch.ones(rows.shape).double()
    )
    means = (counts @ errors / len(errors)).clamp_min(mean.min() / len(errors))
    low, high = slope(means).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    best = slope(mean)
    scale = (mean.log().mean() - best * design.mean()).exp()
    return PowerLaw(scale.item(), best.item(), low.item(), high.item())


def rotate(images: Tensor, degrees: Tensor | float) -> Tensor:
    """Turn pictures about their middle, anticlockwise, by bilinear interpolation; what comes from outside is 0.

    Quarter turns are exact up to rounding.  Differentiable in the pictures and in the angle.

    Args:
        images: `(n, height, width)`, square.
        degrees: one angle, or `(n,)`.

    Raises:
        ValueError: pictures that are not square.
    """
    if images.ndim != 3 or images.shape[1] != images.shape[2]:
        raise ValueError(f"rotate needs square pictures (n, size, size), got {tuple(images.shape)}")
    angle = torch.as_tensor(degrees, dtype=images.dtype, device=images.device).deg2rad().expand(len(images))
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    matrix = torch.stack([torch.stack([cos, -sin, zero], -1), torch.stack([sin, cos, zero], -1)], -2)  # (n, 2, 3)
    grid = F.affine_grid(matrix, [len(images), 1, *images.shape[1:]], align_corners=False)
    return F.grid_sample(images[:, None], grid, align_corners=False)[:, 0]


def saliency(network: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """The derivative of the score of class `y` with respect to every pixel, signed.

    Args:
        network: `(..., examples, features) -> (..., examples, classes)`, each example for itself.
        x: `(..., examples, features)`.
        y: int64, `(..., examples)` or a shape that broadcasts to it.

    Returns:
        The shape of `x`.
    """
    x = x.detach().clone().requires_grad_()
    scores = network(x)
    chosen = scores.gather(-1, y.expand(scores.shape[:-1])[..., None])
    return torch.autograd.grad(chosen.sum(), x)[0]


def sign_step(network: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, size: float) -> Tensor:
    """Every pixel moved by `size`, up or down, whichever raises the cross-entropy; kept between 0 and 1.

    Arguments as in `saliency`.
    """
    x = x.detach().clone().requires_grad_()
    scores = network(x)
    losses = F.cross_entropy(scores.flatten(0, -2), y.expand(scores.shape[:-1]).flatten(), reduction="sum")
    return (x + size * torch.autograd.grad(losses, x)[0].sign()).clamp(0, 1).detach()


def deletion(network: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, order: Tensor, counts: Sequence[int]) -> Tensor:
    """Whether answers are still right after the first pixels of an order were wiped out (set to 0).

    Args:
        network, x, y: as in `saliency`.
        order: int64, the shape of `x`: for each example its pixels, the first to go first.
        counts: how many pixels to wipe out.

    Returns:
        bool `(counts, ..., examples)`.
    """
    place = order.argsort(-1)  # when each pixel goes
    return torch.stack([network(x * (place >= k)).argmax(-1) == y for k in counts])


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's rank correlation along the last dimension, for values without ties."""
    ranks = [values.argsort(-1).argsort(-1).double() for values in (a, b)]
    a, b = (r - (r.shape[-1] - 1) / 2 for r in ranks)
    return (a * b).sum(-1) / a.square().sum(-1)


def wave_posterior_mean(tasks: Sinusoids, support: Set, x: Tensor, grid: int = 60) -> Tensor:
    """The best possible answer to a few noisy points of waves: the mean over all waves, weighted by their posterior.

    No estimate has a smaller expected squared error.

    Args:
        tasks: with noise above 0; amplitude and phase are uniform a priori.
        support: `x` and `y` of `(waves, points, 1)`.
        x: where to answer, `(waves, queries, 1)`.
        grid: amplitudes and phases considered, each, in the middle of equal cells.

    Returns:
        `(waves, queries, 1)`.

    Raises:
        ValueError: waves without noise, whose posterior has no density on a grid.
    """
    if not tasks.noise > 0:
        raise ValueError(f"the posterior needs noise above 0, got {tasks.noise:g}")
    cells = (torch.arange(grid, device=x.device) + 0.5) / grid
    amplitude, phase = (low + (high - low) * cells for low, high in (tasks.amplitude, tasks.phase))
    waves = Waves(*(t.flatten() for t in torch.meshgrid(amplitude, phase, indexing="ij")))  # (grid * grid,)
    answers = []
    for points, values, asked in zip(support.x, support.y, x, strict=True):
        misfit = (tasks.values(waves, points) - values).square().sum((1, 2))  # (grid * grid,)
        weight = torch.softmax(-misfit / (2 * tasks.noise**2), 0)
        answers.append((weight[:, None, None] * tasks.values(waves, asked)).sum(0))
    return torch.stack(answers)
