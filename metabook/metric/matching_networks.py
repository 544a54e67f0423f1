"""A support set as a classifier: Siamese networks compare in pairs, matching networks attend to the whole set.

Both embed the support set, keep it, and answer a query by comparing it with every example kept.  The first step of
this ladder, `metabook.NearestNeighbour`, does so in pixels and learns nothing.

*Siamese networks* learn whether two examples are of one class, and answer with the class of the best match.
R. Hadsell, S. Chopra, Y. LeCun, "Dimensionality Reduction by Learning an Invariant Mapping", CVPR 2006: the
contrastive loss of the distance D of two embeddings,

    D^2 / 2  for one class,    max(0, margin - D)^2 / 2  for two.

G. Koch, R. Zemel, R. Salakhutdinov, "Siamese Neural Networks for One-shot Image Recognition", ICML Deep Learning
Workshop 2015: verification by a weighted L1 distance and a logistic unit,

    p(one class) = sigmoid(sum over features j of  weight_j * abs(a_j - b_j)).

*Matching networks* are trained for what they are used for.  O. Vinyals, C. Blundell, T. Lillicrap, K. Kavukcuoglu,
D. Wierstra, "Matching Networks for One Shot Learning", NeurIPS 2016.  With embeddings f of a query and g of the
support examples, and the cosine as similarity,

    p(y | x) = sum over i of  a_i * one_hot(y_i)
    a        = softmax over i of  cosine(f(x), g(x_i))

Full context embeddings let f and g depend on the whole support set (their appendix A).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vmap

from metabook.episode import Episode, Set
from metabook.learner import Learner
from metabook.networks.recurrent import LSTMCell
from metabook.tasks.distribution import check_counts


def best_match(similarities: Tensor, y: Tensor, ways: int) -> Tensor:
    """Similarity to the most similar example of each class: `(queries, examples)`, `(examples,)` -> `(queries, ways)`.

    It is -inf for a class without examples.
    """
    return _by_class(similarities, y, ways).amax(-1)


def attention_vote(similarities: Tensor, y: Tensor, ways: int) -> Tensor:
    """Log-probabilities of the classes, voted for by softmax attention over the examples.

    Args:
        similarities: `(queries, examples)`, the logits of the attention.
        y: int64 `(examples,)` in 0..ways-1.
        ways: number of classes.

    Returns:
        `(queries, ways)`: the logarithm of the attention that each class receives; -inf for a class without examples.
    """
    return _by_class(similarities.log_softmax(-1), y, ways).logsumexp(-1)


def _by_class(values: Tensor, y: Tensor, ways: int) -> Tensor:
    other = y != torch.arange(ways, device=y.device)[:, None]  # (ways, examples)
    return values[:, None].masked_fill(other, -torch.inf)  # (queries, ways, examples)


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosines of the angles between the rows of `a (n, d)` and `b (m, d)`: `(n, m)`; 0 where a row is zero."""
    return F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T


class Contrastive(nn.Module):
    """Compare two embeddings by minus their Euclidean distance; learn by the contrastive loss.

    Args:
        margin: distance from which on two examples of different classes are far enough apart.
    """

    def __init__(self, margin: float = 1.0) -> None:
        if not 0 < margin < math.inf:
            raise ValueError(f"margin must be positive and finite, got {margin}")
        super().__init__()
        self.margin = margin

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """`a (n, d)`, `b (m, d)` -> similarities `(n, m)`."""
        squares = (a[:, None] - b).square().sum(-1)
        return -squares.clamp(min=torch.finfo(a.dtype).tiny).sqrt()  # the root has no derivative at 0: clamped, it is 0

    def loss(self, similarities: Tensor, same: Tensor) -> Tensor:
        """Loss of each pair, `(n, m)`, where bool `same (n, m)` says which are of one class."""
        gap = (self.margin + similarities).relu()
        return torch.where(same, similarities.square(), gap.square()) / 2


class Verification(nn.Module):
    """Compare two embeddings by a logistic unit on abs(a - b); learn by the binary cross-entropy.

    The unit has a bias, which the paper's formula leaves out: without one, two equal embeddings would be of one class
    with probability 1/2.  Its weights begin negative, so that from the start a difference speaks against one class.

    Args:
        features: number of features d of an embedding.
    """

    def __init__(self, features: int) -> None:
        check_counts(features=features)
        super().__init__()
        self.unit = nn.Linear(features, 1)
        with torch.no_grad():
            self.unit.weight.abs_().neg_()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """`a (n, d)`, `b (m, d)` -> logits `(n, m)` of the probability that two examples are of one class."""
        if a.shape[-1] != self.unit.in_features:
            raise ValueError(f"embeddings have {a.shape[-1]} features, expected {self.unit.in_features}; set features")
        return self.unit((a[:, None] - b).abs()).squeeze(-1)

    def loss(self, similarities: Tensor, same: Tensor) -> Tensor:
        """Loss of each pair, `(n, m)`, where bool `same (n, m)` says which are of one class."""
        return F.binary_cross_entropy_with_logits(similarities, same.to(similarities), reduction="none")


class SiameseNetwork(Learner):
    """The class of the most similar support example; its state is the embedded support set.

    It learns from pairs of a query and a support example.  Most pairs are of two classes, so the loss is the mean over
    pairs of one class and the mean over pairs of two, in equal shares.

    Args:
        encoder: maps `(n, *features)` to embeddings `(n, d)`; both examples of a pair pass through it.
        ways: the most classes an episode may have.  A class without support examples is never predicted.
        comparison: `Contrastive` or `Verification`.

    Raises:
        ValueError: fewer than two ways.
    """

    def __init__(self, encoder: nn.Module, ways: int, comparison: Contrastive | Verification) -> None:
        super().__init__(ways)
        self.encoder, self.comparison = encoder, comparison

    def adapt(self, support: Set) -> Set:
        """The support set with its embeddings `(examples, d)` in place of the inputs."""
        return Set(self.encoder(support.x), support.y)

    def predict(self, state: Set, x: Tensor) -> Tensor:
        """Similarity to the best match of each class, `(queries, ways)`; -inf for a class without examples."""
        return best_match(self._similarities(state, x), state.y, self.ways)

    def loss_and_prediction(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """Mean loss of the pairs, and the predictions `(tasks, queries, ways)`."""
        losses, predictions = vmap(self._of_one_task, randomness="different")(*episode)
        return losses.mean(), predictions

    def _of_one_task(self, support: Set, query: Set) -> tuple[Tensor, Tensor]:
        state = self.adapt(support)
        similarities = self._similarities(state, query.x)
        same = query.y[:, None] == state.y  # (queries, examples)
        losses = self.comparison.loss(similarities, same)
        loss = (_mean_where(same, losses) + _mean_where(~same, losses)) / 2
        return loss, best_match(similarities, state.y, self.ways)

    def _similarities(self, state: Set, x: Tensor) -> Tensor:
        return self.comparison(self.encoder(x), state.x)  # (queries, examples)


def _mean_where(chosen: Tensor, values: Tensor) -> Tensor:
    return torch.where(chosen, values, 0).sum() / chosen.sum().clamp(min=1)


class FullContext(nn.Module):
    """Full context embeddings: what an example means may depend on the support set it is compared with.

    The support set is read as a sequence, so the answer also depends on the order in which it is given.

    Args:
        features: number of features d of an embedding.
        steps: number K of times that a query reads the support set.

    Raises:
        ValueError: a number below one.
    """

    def __init__(self, features: int, steps: int = 5) -> None:
        check_counts(features=features, steps=steps)
        super().__init__()
        self.features, self.steps = features, steps
        self.forwards, self.backwards = LSTMCell(features, features), LSTMCell(features, features)
        self.reader = LSTMCell(2 * features, features)

    def support(self, embeddings: Tensor) -> Tensor:
        """g: a bidirectional LSTM over the support set, added to `embeddings (examples, d)`; appendix A.2."""
        if embeddings.shape[1:] != (self.features,):
            raise ValueError(f"embeddings have shape {tuple(embeddings.shape)}, expected (examples, {self.features})")
        rows = embeddings.unbind()
        there = _run(self.forwards, rows)
        back = _run(self.backwards, rows[::-1])[::-1]
        return embeddings + torch.stack(there) + torch.stack(back)

    def query(self, embeddings: Tensor, support: Tensor) -> Tensor:
        """f: K steps of an LSTM that attends to the support set; appendix A.1, equations 3 to 6.

        Args:
            embeddings: `(queries, d)`.
            support: `(examples, d)`, from `support`.

        Returns:
            `(queries, d)`.
        """
        hidden = cell = torch.zeros_like(embeddings)
        for _ in range(self.steps):
            attention = (hidden @ support.T).softmax(-1)  # (queries, examples)
            # the paper joins what was read to the hidden state; joined to the input it meets the same free weights
            inputs = torch.cat([embeddings, attention @ support], dim=-1)
            output, cell = self.reader(inputs, (hidden, cell))
            hidden = output + embeddings
        return hidden


def _run(cell: LSTMCell, rows: tuple[Tensor, ...]) -> list[Tensor]:
    state = torch.zeros_like(rows[0]), torch.zeros_like(rows[0])
    outputs = []
    for row in rows:
        state = cell(row, state)
        outputs.append(state[0])
    return outputs


class MatchingNetwork(Learner):
    """Attention over the support set, and a vote of its labels; its state is the embedded support set.

    The paper's attention is the softmax of the bare cosine.  A cosine lies in -1..1, so one example of five gets at
    most e / (e + 4 / e) = 65 % of it, one of twenty 28 %.  A `scale` above 1 removes this ceiling.

    Args:
        encoder: maps `(n, *features)` to embeddings `(n, d)`.
        ways: the most classes an episode may have.  A class without support examples is never predicted.
        context: full context embeddings of d features; None embeds every example on its own.
        scale: what the cosine is multiplied by; 1 in the paper.
        learn_scale: whether the scale, then a positive meta-parameter, is learned.

    Raises:
        ValueError: fewer than two ways, or a scale that is not positive and finite.
    """

    def __init__(
        self,
        encoder: nn.Module,
        ways: int,
        context: FullContext | None = None,
        scale: float = 1.0,
        learn_scale: bool = False,
    ) -> None:
        if not 0 < scale < math.inf:
            raise ValueError(f"scale must be positive and finite, got {scale}")
        super().__init__(ways)
        self.encoder, self.context = encoder, context
        log_scale = torch.tensor(math.log(scale))
        if learn_scale:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)

    def adapt(self, support: Set) -> Set:
        """The support set with its embeddings g `(examples, d)` in place of the inputs."""
        embeddings = self.encoder(support.x)
        return Set(self.context.support(embeddings) if self.context else embeddings, support.y)

    def predict(self, state: Set, x: Tensor) -> Tensor:
        """Log-probabilities `(queries, ways)`; -inf for a class without examples."""
        embeddings = self.encoder(x)
        if self.context:
            embeddings = self.context.query(embeddings, state.x)
        return attention_vote(self.log_scale.exp() * cosines(embeddings, state.x), state.y, self.ways)
