"""In-context learning: a task is learned in the forward pass, and no weight changes.

*A memory.*  A. Santoro, S. Bartunov, M. Botvinick, D. Wierstra, T. Lillicrap, "Meta-Learning with Memory-Augmented
Neural Networks", ICML 2016.  The rows of a memory, keys k_i and values v_i, are read and written by content:

    r = softmax of sharpness * cosine(q, k_i)             over the rows in use; what is read is sum_i r_i v_i
    b = gate * r + (1 - gate) * (the least used row)      where is written; the least used row is cleared first
    k_i <- k_i + b_i q,    v_i <- v_i + b_i y,    usage <- decay * usage + r + b

*A transformer.*  S. Garg, D. Tsipras, P. Liang, G. Valiant, "What Can Transformers Learn In-Context? A Case Study of
Simple Function Classes", NeurIPS 2022.  The examples of a task are tokens, a query is a token without its y, and the
answer is read off the query after some blocks.  As in S. Mueller et al., "Transformers Can Do Bayesian Inference", ICLR
2022, the examples are a set, without positions, and a query sees them and nothing else.  A softmax takes means, and a
mean does not know of how many: with every example given twice nothing would change.  One learned token that every task
has, the same beside one example and beside sixteen, lets the blocks count.

*Gradient descent.*  J. von Oswald, E. Niklasson, E. Randazzo, J. Sacramento, A. Mordvintsev, A. Zhmoginov,
M. Vladymyrov, "Transformers Learn In-Context by Gradient Descent", ICML 2023.  Attention without a softmax, over
n examples e_i = (x_i, y_i), adds to every token e

    P M Q e    with    M = 1/n sum_i e_i e_i'.

With Q = diag(I, 0) and P = -rate * diag(0, I) it adds -rate * 1/n sum_i y_i x_i'x to y and leaves x as it is: the y of
every example becomes its residual after one step of gradient descent from zero on 1/(2n) sum_i ||W x_i - y_i||^2, that
of a query, which begins at 0, becomes minus the prediction W x, and each further layer is a further step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabook.episode import Episode, Set, check_labels, is_classification
from metabook.learner import Learner
from metabook.networks.attention import KeysValues, LayerNorm, TransformerBlock
from metabook.tasks.distribution import check_counts


class InContextRegressor(Learner):
    """A transformer that reads the examples of a task and answers queries; its state is what it keeps of them.

    `adapt` runs the examples through the blocks and keeps their keys and values, the *cache* of a language model.
    `predict` lets every query read them; queries do not see each other, and the order of the examples is of no effect.
    Both also take tensors with the task dimension in front, and return it in front.

    Args:
        inputs: features of x.
        outputs: values of y.
        width: features of a token.
        layers: blocks.
        heads: of the attention in each block.
        hidden: width of the hidden layer in each block, 4 times the width by default.
        start: whether a learned token stands beside the examples of every task.

    Raises:
        ValueError: a size below one, or heads that do not divide the width.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int = 1,
        width: int = 32,
        layers: int = 3,
        heads: int = 4,
        hidden: int | None = None,
        start: bool = True,
    ) -> None:
        super().__init__()
        check_counts(inputs=inputs, outputs=outputs, layers=layers)
        self.inputs, self.outputs = inputs, outputs
        self.embed_example, self.embed_query = nn.Linear(inputs + outputs, width), nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, hidden) for _ in range(layers))
        self.norm, self.readout = LayerNorm(width), nn.Linear(width, outputs)
        self.start = nn.Parameter(0.5 * torch.randn(1, width)) if start else None

    def adapt(self, support: Set) -> tuple[KeysValues, ...]:
        """Keys and values of the examples, and of the start token before them, in every block."""
        tokens = self.embed_example(torch.cat([support.x, support.y], dim=-1))  # (..., examples, width)
        if self.start is not None:
            tokens = torch.cat([self.start.expand(*tokens.shape[:-2], 1, -1), tokens], dim=-2)
        state = [self.blocks[0].remember(tokens)]
        for block, following in zip(self.blocks[:-1], self.blocks[1:], strict=True):
            tokens = block(tokens, state[-1])
            state.append(following.remember(tokens))
        return tuple(state)

    def predict(self, state: tuple[KeysValues, ...], x: Tensor) -> Tensor:
        """Values of the queries `x (queries, inputs)`: `(queries, outputs)`."""
        tokens = self.embed_query(x)
        for block, memory in zip(self.blocks, state, strict=True):
            tokens = block(tokens, memory)
        return self.readout(self.norm(tokens))

    def forward(self, episode: Episode) -> Tensor:
        """Values of the queries of every task, `(tasks, queries, outputs)`: the blocks run once on all tasks."""
        return self.predict(self.adapt(episode.support), episode.query.x)

    def check(self, episode: Episode) -> None:
        """Raise one clear `ValueError` if the transformer cannot work on this batch."""
        super().check(episode)
        _check_values(episode, self.inputs, self.outputs)


class LinearAttention(Learner):
    """Layers of attention without a softmax; the state is one matrix per layer, whatever the number of examples.

    A token is `(x, y)`, of `inputs + outputs` features; a query has y = 0, and minus its y is the answer in the end.
    Layer l adds `P_l M_l Q_l e` to every token e, with M_l the mean of the e e' over the examples.  P and Q are small
    random matrices to begin with; `gradient_steps` sets them by hand.

    Args:
        inputs: features of x.
        outputs: values of y.
        layers: each with its own P and Q.

    Raises:
        ValueError: a size below one.
    """

    def __init__(self, inputs: int, outputs: int = 1, layers: int = 1) -> None:
        super().__init__()
        check_counts(inputs=inputs, outputs=outputs, layers=layers)
        self.inputs, self.outputs = inputs, outputs
        size = inputs + outputs
        self.P = nn.Parameter(0.1 * torch.randn(layers, size, size))
        self.Q = nn.Parameter(0.1 * torch.randn(layers, size, size))

    def adapt(self, support: Set) -> Tensor:
        """The matrices M, `(layers, inputs + outputs, inputs + outputs)`."""
        tokens, state = torch.cat([support.x, support.y], dim=-1), []  # (..., examples, size)
        for P, Q in zip(self.P, self.Q, strict=True):
            state.append(tokens.mT @ tokens / tokens.shape[-2])
            tokens = tokens + tokens @ (P @ state[-1] @ Q).mT
        return torch.stack(state, dim=-3)

    def predict(self, state: Tensor, x: Tensor) -> Tensor:
        """Values of the queries `x (queries, inputs)`: `(queries, outputs)`."""
        tokens = torch.cat([x, x.new_zeros(*x.shape[:-1], self.outputs)], dim=-1)
        for P, M, Q in zip(self.P, state.unbind(-3), self.Q, strict=True):
            tokens = tokens + tokens @ (P @ M @ Q).mT
        return -tokens[..., self.inputs :]

    def forward(self, episode: Episode) -> Tensor:
        """Values of the queries of every task, `(tasks, queries, outputs)`."""
        return self.predict(self.adapt(episode.support), episode.query.x)

    def check(self, episode: Episode) -> None:
        """Raise one clear `ValueError` if the layers cannot work on this batch."""
        super().check(episode)
        _check_values(episode, self.inputs, self.outputs)


def gradient_steps(inputs: int, rates: Sequence[float], outputs: int = 1) -> LinearAttention:
    """Layers of linear attention that are steps of gradient descent, from W = 0, on 1/(2n) sum_i ||W x_i - y_i||^2.

    Args:
        inputs: features of x.
        rates: the rate of each step; there are as many layers.
        outputs: values of y.

    Returns:
        A learner whose answers are W x after all the steps.

    Raises:
        ValueError: no rates, or a size below one.
    """
    learner = LinearAttention(inputs, outputs, layers=len(rates))
    reads_x = torch.cat([torch.ones(inputs), torch.zeros(outputs)])
    with torch.no_grad():
        learner.Q.copy_(torch.diag(reads_x).expand_as(learner.Q))
        learner.P.copy_(-torch.tensor(rates)[:, None, None] * torch.diag(1 - reads_x))
    return learner


def _check_values(episode: Episode, inputs: int, outputs: int) -> None:
    for name, (x, y) in zip(("support", "query"), episode, strict=True):
        if is_classification(y):
            raise ValueError(f"{name}.y holds classes ({y.dtype}), but this is regression: give values")
        if x.shape[2:] != (inputs,) or y.shape[2:] != (outputs,):
            raise ValueError(
                f"{name} has inputs {tuple(x.shape)} and values {tuple(y.shape)}, expected (tasks, examples, {inputs}) "
                f"and (tasks, examples, {outputs}); set inputs and outputs of the learner"
            )


class Memory(NamedTuple):
    """The rows of an external memory."""

    keys: Tensor  # (slots, features)
    values: Tensor  # (slots, ways)
    usage: Tensor  # (slots,), how much each was read and written lately


class ContentMemory(Learner):
    """Classification by an external memory that is read and written by content.

    An example is written as the key `encoder(x)` beside its label, one-hot.  In the paper an LSTM sees the label one
    step late and learns to write both into a row; here that binding is given, and encoder, sharpness and gate are
    learned.  Where all rows are in use, the least used one is forgotten.

    Args:
        encoder: `(examples, *features) -> (examples, d)`.
        ways: number of classes.
        slots: rows of the memory.
        sharpness: what cosines are multiplied by before the softmax, at the start of training.
        gate: share of a writing that goes to the rows that were read, at the start of training.
        decay: of the usage, from one step to the next.
        scale: what the label that was read is multiplied by to give logits, at the start of training.

    Raises:
        ValueError: fewer than two ways, no slots, a sharpness or scale that is not positive, a gate outside (0, 1), or
            a decay outside (0, 1].
    """

    def __init__(
        self,
        encoder: nn.Module,
        ways: int,
        slots: int = 40,
        sharpness: float = 10.0,
        gate: float = 0.1,
        decay: float = 0.95,
        scale: float = 5.0,
    ) -> None:
        super().__init__(ways)
        check_counts(slots=slots)
        if sharpness <= 0 or scale <= 0:
            raise ValueError(f"sharpness and scale must be positive, got {sharpness} and {scale}")
        if not 0 < gate < 1 or not 0 < decay <= 1:
            raise ValueError(f"gate must lie in (0, 1) and decay in (0, 1], got {gate} and {decay}")
        self.encoder, self.slots, self.decay = encoder, slots, decay
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(sharpness)))
        self.gate = nn.Parameter(torch.tensor(math.log(gate / (1 - gate))))  # before the sigmoid
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def empty(self, key: Tensor) -> Memory:
        """A memory of nothing, for keys like `key (features,)`; its rows will be used one after the other."""
        order = torch.arange(self.slots, device=key.device).to(key) * 1e-6
        return Memory(key.new_zeros(self.slots, len(key)), key.new_zeros(self.slots, self.ways), order)

    def attend(self, memory: Memory, keys: Tensor) -> Tensor:
        """Reading weights of each row for keys `(..., features)`: `(..., slots)`; all zero while nothing is written."""
        used = memory.values.sum(-1) > 0
        cosines = _unit(keys) @ _unit(memory.keys).mT
        weights = used * (self.log_sharpness.exp() * (cosines - 1)).exp()
        return weights / weights.sum(-1, keepdim=True).clamp(min=1e-30)

    def write(self, memory: Memory, key: Tensor, label: Tensor) -> Memory:
        """The memory after one example: its key `(features,)` and one-hot label `(ways,)`."""
        read, oldest = self.attend(memory, key), F.one_hot(memory.usage.argmin(-1), self.slots).to(key)
        gate, kept = self.gate.sigmoid(), (1 - oldest)[:, None]
        where = gate * read + (1 - gate) * oldest  # (slots,)
        return Memory(
            memory.keys * kept + where[:, None] * key,
            memory.values * kept + where[:, None] * label,
            self.decay * memory.usage + read + where,
        )

    def adapt(self, support: Set) -> Memory:
        """Write the examples one after the other."""
        keys, labels = self._bound(support)
        memory = self.empty(keys[0])
        for key, label in zip(keys, labels, strict=True):
            memory = self.write(memory, key, label)
        return memory

    def predict(self, state: Memory, x: Tensor) -> Tensor:
        """Logits `(queries, ways)`: the scaled label that each query reads."""
        return self._logits(state, self.encoder(x))

    def follow(self, sequence: Set) -> Tensor:
        """Logits for every example of one sequence, each given before its label is shown: `(examples, ways)`."""
        keys, labels = self._bound(sequence)
        memory, answers = self.empty(keys[0]), []
        for key, label in zip(keys, labels, strict=True):
            answers.append(self._logits(memory, key))
            memory = self.write(memory, key, label)
        return torch.stack(answers)

    def check(self, episode: Episode) -> None:
        """Raise one clear `ValueError` if the memory cannot work on this batch."""
        super().check(episode)
        for name, part in zip(("support", "query"), episode, strict=True):
            check_labels(part.y, self.ways, f"{name}.y")

    def _bound(self, examples: Set) -> tuple[Tensor, Tensor]:
        keys = self.encoder(examples.x)
        return keys, F.one_hot(examples.y, self.ways).to(keys)

    def _logits(self, memory: Memory, keys: Tensor) -> Tensor:
        return self.log_scale.exp() * self.attend(memory, keys) @ memory.values


def _unit(x: Tensor) -> Tensor:
    """Rows of length one; zero rows stay zero, with a finite derivative."""
    return x * (x.square().sum(-1, keepdim=True) + 1e-24).rsqrt()
