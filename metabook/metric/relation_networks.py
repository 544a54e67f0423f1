"""Relation networks: how alike two examples are is itself the output of a network.

F. Sung, Y. Yang, L. Zhang, T. Xiang, P. Torr, T. Hospedales, "Learning to Compare: Relation Network for Few-Shot
Learning", CVPR 2018.  An encoder f embeds, and a relation module g scores two embeddings that lie behind each other in
one input,

    r_k(x) = g([sum of f(x_i) over the support examples of class k, f(x)])   in 0..1

with the square of r_k(x) - [x is of class k] as the loss (their equation 2): regression to 1 and 0, not a
cross-entropy.  With several examples per class the paper sums *embeddings* and scores once (section 3.2).

A second rule, sometimes told as if it were the paper's, scores every support example and sums the *scores*,

    r_k(x) = sum of g([f(x_i), f(x)]) over the support examples of class k.

With one example per class the two are the same.  With several, the second serves any number of them with one relation
module, if all classes have as many; the first is tied to the number that it was trained with.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vmap

from metabook.episode import Episode, Set
from metabook.learner import Learner
from metabook.networks import Norm, conv2d
from metabook.networks.conv4 import Block
from metabook.tasks.distribution import check_counts

RULES = ("summed embeddings", "summed scores", "mean scores")


class References(NamedTuple):
    """What the queries of one task are compared with: one item per class, or one per support example."""

    embeddings: Tensor  # (items, *features)
    y: Tensor  # int64 (items,), the class of each item
    present: Tensor  # bool (items,), False for a class that had no support examples


class RelationNetwork(Learner):
    """A learned comparison of learned embeddings; its state is what the queries are compared with.

    Its predictions are scores, not logits: the largest wins, and the loss is the mean squared error of all the scores
    that the relation module gives, one per query and item.

    A relation module with batch statistics sees the pairs of all queries and items, so the learner is transductive.
    With summed embeddings it then also sees the classes that an episode lacks: give it no more `ways` than it has.

    Args:
        encoder: maps `(n, *inputs)` to embeddings `(n, channels, *rest)`, flat or feature maps.
        relation: maps pairs `(n, 2 * channels, *rest)` to logits `(n, 1)`, whose sigmoid is the score; for flat
            embeddings of d features e.g. `mlp([2 * d, 64, 8, 1])`.
        ways: the most classes an episode may have.  A class without support examples is never predicted.
        rule: "summed embeddings" is the paper's; "summed scores" and "mean scores" score every support example, and
            add up or average over the class.

    Raises:
        ValueError: fewer than two ways, or an unknown rule.
    """

    def __init__(self, encoder: nn.Module, relation: nn.Module, ways: int, rule: str = "summed embeddings") -> None:
        if rule not in RULES:
            raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
        super().__init__(ways)
        self.encoder, self.relation, self.rule = encoder, relation, rule

    def adapt(self, support: Set) -> References:
        """What the queries of one task are compared with."""
        embeddings = self.encoder(support.x)
        if self.rule != "summed embeddings":
            return References(embeddings, support.y, torch.ones_like(support.y, dtype=torch.bool))
        members = F.one_hot(support.y, self.ways)  # (examples, ways)
        sums = members.to(embeddings).T @ embeddings.flatten(1)
        classes = torch.arange(self.ways, device=support.y.device)
        return References(sums.unflatten(1, embeddings.shape[1:]), classes, members.sum(0) > 0)

    def predict(self, state: References, x: Tensor) -> Tensor:
        """Score of each class, `(queries, ways)`; -inf for a class without support examples."""
        return self._by_class(state, self.scores(state, x))

    def scores(self, state: References, x: Tensor) -> Tensor:
        """Relation of each query to each item, in 0..1: `(queries, items)`."""
        return self.logits(state, x).sigmoid()

    def logits(self, state: References, x: Tensor) -> Tensor:
        """What the relation module says of each query and item, before the sigmoid: `(queries, items)`."""
        queries = self.encoder(x)
        n, items = len(queries), len(state.embeddings)
        if isinstance(self.relation, RelationModule):
            logits = self.relation.of_all_pairs(state.embeddings, queries)
        else:
            logits = self.relation(_all_pairs(state.embeddings, queries))
        if logits.shape != (n * items, 1):
            raise ValueError(f"relation must map {n * items} pairs to {(n * items, 1)}, got {tuple(logits.shape)}")
        return logits.view(n, items)

    def loss_and_prediction(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """Mean squared error of the scores, and the predictions `(tasks, queries, ways)`."""
        losses, predictions = vmap(self._of_one_task, randomness="different")(*episode)
        return losses.mean(), predictions

    def _of_one_task(self, support: Set, query: Set) -> tuple[Tensor, Tensor]:
        state = self.adapt(support)
        scores = self.scores(state, query.x)
        target = (query.y[:, None] == state.y).to(scores)
        errors = (scores - target).square().mean(0)  # (items,)
        return (errors * state.present).sum() / state.present.sum(), self._by_class(state, scores)

    def _by_class(self, state: References, scores: Tensor) -> Tensor:
        members = F.one_hot(state.y, self.ways) * state.present[:, None]  # (items, ways)
        counts = members.sum(0)
        total = scores @ members.to(scores)
        if self.rule == "mean scores":
            total = total / counts.clamp(min=1)
        return torch.where(counts > 0, total, -torch.inf)


def _all_pairs(items: Tensor, queries: Tensor) -> Tensor:
    """Each item before each query: `(items, c, ...)`, `(queries, c, ...)` -> `(queries * items, 2 * c, ...)`."""
    n, m = len(queries), len(items)
    first, second = items.expand(n, *items.shape), queries[:, None].expand(n, m, *queries.shape[1:])
    return torch.cat([first, second], dim=2).flatten(0, 1)


class _Unpooled(nn.Module):
    """3x3 convolution, normalisation, ReLU."""

    def __init__(self, channels: int, groups: int | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, channels, 3, 3))
        nn.init.xavier_uniform_(self.weight)
        self.norm = Norm(channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(conv2d(x, self.weight)).relu()


def _groups(norm: str, channels: int) -> int | None:
    if norm not in ("batch", "group"):
        raise ValueError(f'norm must be "batch" or "group", got {norm!r}')
    return math.gcd(8, channels) if norm == "group" else None


def relation_encoder(in_channels: int = 1, channels: int = 64, norm: str = "batch") -> nn.Sequential:
    """The paper's encoder: Conv4 with pooling in its first two blocks only, so that maps are left to be compared.

    Args:
        in_channels: channels of the images.
        channels: width of every block.
        norm: "batch" (statistics of the call, as in the paper) or "group" (each image on its own), as in `conv4`.

    Returns:
        A network `(n, in_channels, h, w) -> (n, channels, h // 4, w // 4)`: 7x7 maps for 28x28 pixels.  (The authors'
        code does not pad its first two convolutions, which leaves 5x5.)

    Raises:
        ValueError: a number below one, or an unknown `norm`.
    """
    check_counts(in_channels=in_channels, channels=channels)
    groups = _groups(norm, channels)
    return nn.Sequential(
        Block(in_channels, channels, groups),
        Block(channels, channels, groups),
        _Unpooled(channels, groups),
        _Unpooled(channels, groups),
    )


class RelationModule(nn.Module):
    """The paper's relation module for feature maps: two convolutional blocks, two linear layers.

    It maps pairs `(n, 2 * channels, size, size)` to logits `(n, 1)`.  A convolution is linear, so that of a pair is
    the sum of one of its first map and one of its second; for all pairs of two sets each map is convolved once.

    Args:
        channels: of one embedding; a pair has twice as many.
        size: height and width of the feature maps, at least 4; 7 after `relation_encoder` on 28 pixels.
        hidden: width of the first linear layer, 8 in the paper.
        norm: as in `relation_encoder`; "batch" takes the statistics of all pairs of a task.

    Raises:
        ValueError: a number below one, maps too small for two poolings, or an unknown `norm`.
    """

    def __init__(self, channels: int = 64, size: int = 7, hidden: int = 8, norm: str = "batch") -> None:
        check_counts(channels=channels, size=size, hidden=hidden)
        if size < 4:
            raise ValueError(f"two 2x2 poolings need feature maps of size 4 at least, got {size}")
        super().__init__()
        groups = _groups(norm, channels)
        self.pair = Block(2 * channels, channels, groups)
        self.rest = nn.Sequential(
            Block(channels, channels, groups),
            nn.Flatten(),
            nn.Linear(channels * (size // 4) ** 2, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 1),
        )

    def forward(self, pairs: Tensor) -> Tensor:
        """Logits of pairs: `(n, 2 * channels, size, size)` -> `(n, 1)`."""
        return self.rest(self.pair(pairs))

    def of_all_pairs(self, items: Tensor, queries: Tensor) -> Tensor:
        """Logits of each query with each item, `(queries * items, 1)`: what `forward` says of all their pairs."""

        def convolve(weight: Tensor) -> Tensor:
            of_items, of_queries = weight.chunk(2, dim=1)
            maps = conv2d(items, of_items) + conv2d(queries, of_queries)[:, None]  # (queries, items, channels, ...)
            return maps.flatten(0, 1)

        return self.rest(self.pair.of(convolve))
