"""Strong baselines: a classifier trained without episodes, and three ways to use its features on a new task.

*SimpleShot.*  Y. Wang, W.-L. Chao, K. Q. Weinberger, L. van der Maaten, "SimpleShot: Revisiting Nearest-Neighbor
Classification for Few-Shot Learning", arXiv:1911.04623, 2019.  The nearest class mean, of features z that are

    UN      left as they are,
    L2N     scaled to length one,        z / ||z||
    CL2N    centred, then scaled,        (z - m) / ||z - m||      with m the mean feature of the training images.

*Baseline and Baseline++.*  W.-Y. Chen, Y.-C. Liu, Z. Kira, Y.-C. F. Wang, J.-B. Huang, "A Closer Look at Few-shot
Classification", ICLR 2019.  The encoder is frozen and a new head is trained on the support set by gradient descent: a
linear one (Baseline), or one whose logits are scaled cosines of feature and class weight (Baseline++), with
pre-training by a head of the same kind (`metabook.pretrain_classifier`).

*Modified Hausdorff distance.*  M.-P. Dubuisson, A. K. Jain, "A Modified Hausdorff Distance for Object Matching", ICPR
1994.  Two drawings as the sets A and B of their inked pixels:

    d(A, B) = max( mean over a of  min over b of ||a - b||,   mean over b of  min over a of ||a - b|| ).

With every set centred at its mean this is the demonstration that comes with Omniglot (Lake et al., 2015).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabook.data.dataset import Dataset
from metabook.episode import Episode, Set
from metabook.learner import Learner, task_loss
from metabook.metric.matching_networks import best_match, cosines
from metabook.metric.prototypical_networks import Prototypes, prototypes, squared_distances
from metabook.optimization.maml import Weights, descend
from metabook.tasks.distribution import check_counts

TRANSFORMS = ("UN", "L2N", "CL2N")


@torch.no_grad()
def mean_feature(encoder: nn.Module, dataset: Dataset, batch: int = 500) -> Tensor:
    """Mean embedding of all images of a data set, `(d,)`; `batch` images pass through the encoder at a time."""
    device = next((p.device for p in encoder.parameters()), dataset.images.device)
    parts = dataset.images.split(batch)
    return sum(encoder(part.to(device).float() / 255).sum(0) for part in parts) / len(dataset)


class SimpleShot(Learner):
    """Nearest class mean of transformed features; its state is the class means.

    Args:
        encoder: maps `(n, *features)` to embeddings `(n, d)`.
        ways: the most classes an episode may have.  A class without support examples is never predicted.
        transform: "UN", "L2N" or "CL2N".
        mean: `(d,)`, what CL2N subtracts: the mean feature of the *training* images, from `mean_feature`.

    Raises:
        ValueError: fewer than two ways, an unknown transform, or CL2N without a mean.
    """

    def __init__(self, encoder: nn.Module, ways: int, transform: str = "CL2N", mean: Tensor | None = None) -> None:
        if transform not in TRANSFORMS:
            raise ValueError(f"transform must be one of {', '.join(TRANSFORMS)}, got {transform!r}")
        if transform == "CL2N" and mean is None:
            raise ValueError("CL2N subtracts the mean feature of the training images: give mean=mean_feature(...)")
        super().__init__(ways)
        self.encoder, self.transform = encoder, transform
        self.register_buffer("mean", mean if transform == "CL2N" else None)

    def features(self, x: Tensor) -> Tensor:
        """Transformed features `(n, d)`."""
        z = self.encoder(x)
        if self.transform == "UN":
            return z
        return F.normalize(z if self.mean is None else z - self.mean, dim=-1)

    def adapt(self, support: Set) -> Prototypes:
        """The class means of one task; a mean of normalised features is not normalised again."""
        z = self.features(support.x)
        counts = F.one_hot(support.y, self.ways).sum(0).to(z)
        return Prototypes(prototypes(z, support.y, self.ways), counts)

    def predict(self, state: Prototypes, x: Tensor) -> Tensor:
        """Logits: minus the squared distance to each class mean, `(queries, ways)`; -inf for an absent class."""
        return torch.where(state.counts > 0, -squared_distances(self.features(x), state.centres), -torch.inf)


class Baseline(Learner):
    """A new head on a frozen encoder, trained on the support set; its state is the head's weights.

    Every task starts at the same random head.  The authors draw a new one for each task, and take minibatches of four
    for 100 epochs; here each step sees the whole support set.

    Args:
        encoder: maps `(n, *features)` to embeddings `(n, d)`.
        ways: the most classes an episode may have.  A class without support examples takes no part.
        features: d.
        cosine: False for the linear head of Baseline, True for the cosine head of Baseline++.
        lr: rate of the gradient steps.
        steps: number of gradient steps.
        scale: what the cosine is multiplied by; no part of a linear head.
        seed: of the random head.

    Raises:
        ValueError: fewer than two ways, counts below one, a rate or scale that is not positive and finite.
    """

    def __init__(
        self,
        encoder: nn.Module,
        ways: int,
        features: int,
        cosine: bool = False,
        lr: float = 0.01,
        steps: int = 100,
        scale: float = 10.0,
        seed: int = 0,
    ) -> None:
        check_counts(features=features, steps=steps)
        for name, value in {"lr": lr, "scale": scale}.items():
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value}")
        super().__init__(ways)
        self.encoder, self.cosine = encoder, cosine
        self.lr, self.steps, self.scale = lr, steps, scale
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("start", (2 * torch.rand(ways, features, generator=generator) - 1) / features**0.5)

    def adapt(self, support: Set) -> Weights:
        """The trained head: `weight (ways, d)`, and the `bias (ways,)` of a linear one."""
        z = self.encoder(support.x).detach()
        present = F.one_hot(support.y, self.ways).sum(0) > 0
        start = {"weight": self.start.to(z)}
        if not self.cosine:
            start["bias"] = torch.zeros_like(start["weight"][:, 0])

        def loss(head: Weights) -> Tensor:
            return task_loss(torch.where(present, self.logits(head, z), -torch.inf), support.y)

        return {**descend(loss, start, self.lr, self.steps, first_order=True), "present": present}

    def logits(self, head: Weights, z: Tensor) -> Tensor:
        """Logits `(n, ways)` of embeddings `z (n, d)`."""
        if self.cosine:
            return self.scale * cosines(z, head["weight"])
        return F.linear(z, head["weight"], head["bias"])

    def predict(self, state: Weights, x: Tensor) -> Tensor:
        """Logits `(queries, ways)`; -inf for a class without examples."""
        return torch.where(state["present"], self.logits(state, self.encoder(x)), -torch.inf)


def ink_points(image: Tensor, threshold: float = 0.5) -> Tensor:
    """Coordinates (row, column) of the pixels with more ink than `threshold`, centred at their mean.

    Args:
        image: `(height, width)`, or with one channel before; 0 is paper, 1 ink.

    Returns:
        float64 `(points, 2)`.

    Raises:
        ValueError: no such pixel.
    """
    points = (image.reshape(image.shape[-2:]) > threshold).nonzero().double()
    if not len(points):
        raise ValueError(f"no pixel has more ink than the threshold {threshold}; the darkest has {float(image.max())}")
    return points - points.mean(0)


def modified_hausdorff(a: Tensor, b: Tensor) -> Tensor:
    """Distance of the points `a (n, 2)` and `b (m, 2)`, in pixels: the larger one of both mean nearest distances."""
    distances = torch.cdist(a, b)
    return torch.maximum(distances.amin(1).mean(), distances.amin(0).mean())


class ModifiedHausdorff(Learner):
    """The class of the drawing at the smallest modified Hausdorff distance; no learning, its state is the drawings.

    Drawings differ in their number of points, so tasks are done one by one.

    Args:
        ways: the most classes an episode may have.  A class without support examples is never predicted.
        threshold: more ink than this makes a pixel a point.
    """

    def __init__(self, ways: int, threshold: float = 0.5) -> None:
        super().__init__(ways)
        self.threshold = threshold

    def adapt(self, support: Set) -> tuple[list[Tensor], Tensor]:
        """The points of every support drawing, and the labels."""
        return [ink_points(image, self.threshold) for image in support.x], support.y

    def predict(self, state: tuple[list[Tensor], Tensor], x: Tensor) -> Tensor:
        """Minus the distance to the nearest drawing of each class, `(queries, ways)`; -inf for an absent class."""
        drawings, y = state
        queries = [ink_points(image, self.threshold) for image in x]
        distances = torch.stack([_distances(query, drawings) for query in queries])
        return best_match(-distances, y, self.ways).to(x.dtype)

    def forward(self, episode: Episode) -> Tensor:
        """Predictions `(tasks, queries, ways)`."""
        tasks = zip(episode.support.x, episode.support.y, episode.query.x, strict=True)
        return torch.stack([self.predict(self.adapt(Set(x, y)), queries) for x, y, queries in tasks])


ROWS = 64  # of a table of distances at a time: small enough for the cache of a processor


def _distances(query: Tensor, drawings: list[Tensor]) -> Tensor:
    """`modified_hausdorff` of one drawing and many, `(drawings,)`, by products of matrices."""
    rows = torch.cat([query, _squares(query), torch.ones_like(query[:, :1])], dim=1).split(ROWS)
    return torch.stack([_distance(rows, points) for points in drawings])


def _distance(rows: tuple[Tensor, ...], points: Tensor) -> Tensor:
    columns = torch.cat([-2 * points, torch.ones_like(points[:, :1]), _squares(points)], dim=1).T.contiguous()
    there, back = zip(*((part.amin(1), part.amin(0)) for part in (row @ columns for row in rows)), strict=True)
    nearest = torch.cat(there), torch.stack(back).amin(0)  # squared, of each point of the query and of the drawing
    return torch.stack([squares.clamp(min=0).sqrt().mean() for squares in nearest]).amax()


def _squares(points: Tensor) -> Tensor:
    return points.square().sum(1, keepdim=True)
