"""Networks that read sequences and sets: recurrent networks and their gradients, attention, a task of recall.

*Recurrent networks.*  J. L. Elman, "Finding Structure in Time", Cognitive Science 14, 1990:

    h_t = tanh(W x_t + U h_{t-1} + b).

*Vanishing gradients.*  Y. Bengio, P. Simard, P. Frasconi, "Learning Long-Term Dependencies with Gradient Descent Is
Difficult", IEEE Transactions on Neural Networks 5(2), 1994: what a late state knows of an early one is a product,

    dh_T / dh_t = J_T J_{T-1} ... J_{t+1},      J_s = dh_s / dh_{s-1}.

*Attention.*  E. A. Nadaraya, "On Estimating Regression", and G. S. Watson, "Smooth Regression Analysis", both 1964: a
mean of the values, in which near keys weigh more.  With a bandwidth tau that goes to 0 it is the nearest neighbour,

    y(q) = sum over i of  a_i v_i,      a = softmax over i of  -||q - k_i||^2 / (2 tau^2).

The order of a set is no part of it; sinusoids tell a token its place (A. Vaswani et al., "Attention Is All You Need",
NeurIPS 2017, section 3.5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import jacrev

from metabook.networks.attention import MultiHeadAttention
from metabook.tasks.distribution import check_counts


@dataclass(frozen=True)
class Recall:
    """Sequences of pairs (key, symbol), then a gap of tokens that mean nothing, then one of the keys as a question.

    The answer is the symbol that stood beside the key.  Keys are random directions, new in every sequence.

    Args:
        pairs: key and symbol, both in one token.
        gap: tokens between the last pair and the question; each is a random direction and no symbol.
        width: coordinates of a key.
        symbols: how many there are.

    Raises:
        ValueError: a count below one (a gap: below zero), or fewer than two symbols.
    """

    pairs: int
    gap: int = 0
    width: int = 8
    symbols: int = 4

    def __post_init__(self) -> None:
        """Refuse counts that make no task."""
        check_counts(pairs=self.pairs, width=self.width, symbols=self.symbols)
        if self.gap < 0 or self.symbols < 2:
            raise ValueError(f"a gap of 0 or more and 2 symbols or more are needed, got {self.gap} and {self.symbols}")

    @property
    def features(self) -> int:
        """Coordinates of a token: the key, the symbol as one-hot, and 1 for the question."""
        return self.width + self.symbols + 1

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw `n` sequences: tokens `(n, pairs + gap + 1, features)` and answers, int64 `(n,)`."""
        place = {"generator": generator, "device": generator.device}
        directions = F.normalize(torch.randn(n, self.pairs + self.gap, self.width, **place), dim=-1)
        symbols = torch.randint(self.symbols, (n, self.pairs), **place)
        asked = torch.randint(self.pairs, (n, 1), **place)
        tokens = directions.new_zeros(n, self.pairs + self.gap + 1, self.features)
        tokens[:, :-1, : self.width] = directions
        tokens[:, : self.pairs, self.width : -1] = F.one_hot(symbols, self.symbols).to(tokens)
        tokens[:, -1, : self.width] = directions.take_along_dim(asked[:, :, None], 1)[:, 0]
        tokens[:, -1, -1] = 1
        return tokens, symbols.take_along_dim(asked, 1)[:, 0]

    def look_up(self, tokens: Tensor) -> Tensor:
        """The exact answers, int64 `(n,)`: the symbol of the pair whose key is nearest to the question."""
        pairs, question = tokens[:, : self.pairs], tokens[:, -1:, : self.width]
        nearest = torch.cdist(question, pairs[..., : self.width])[:, 0].argmin(-1)  # (n,)
        return pairs.take_along_dim(nearest[:, None, None], 1)[:, 0, self.width : -1].argmax(-1)


class RecurrentReader(nn.Module):
    """Reads token after token and answers from the last state: `(n, length, features)` -> logits `(n, outputs)`.

    Args:
        features: of a token.
        outputs: of the answer.
        hidden: size of the state.
        cell: "tanh" for the recurrent network of Elman, "lstm" for the long short-term memory.
        forget_bias: added to the forget gates of an LSTM at the start: how much it remembers before it has learned to.

    Raises:
        ValueError: a count below one, or an unknown cell.
    """

    def __init__(
        self, features: int, outputs: int, hidden: int = 32, cell: str = "lstm", forget_bias: float = 2.0
    ) -> None:
        super().__init__()
        check_counts(features=features, outputs=outputs, hidden=hidden)
        kinds = {"tanh": nn.RNN, "lstm": nn.LSTM}
        if cell not in kinds:
            raise ValueError(f"cell must be one of {', '.join(kinds)}, got {cell!r}")
        self.states = kinds[cell](features, hidden, batch_first=True)
        self.output = nn.Linear(hidden, outputs)
        if cell == "lstm":
            with torch.no_grad():
                self.states.bias_hh_l0[hidden : 2 * hidden] += forget_bias

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits `(n, outputs)`."""
        return self.output(self.states(tokens)[0][:, -1])


class MeanReader(nn.Module):
    """Encodes each token on its own, and answers from the mean of the codes and the last token: a set, not a sequence.

    Args:
        features: of a token.
        outputs: of the answer.
        hidden: width of both networks.
    """

    def __init__(self, features: int, outputs: int, hidden: int = 64) -> None:
        super().__init__()
        check_counts(features=features, outputs=outputs, hidden=hidden)
        self.encoder = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, hidden))
        self.output = nn.Sequential(nn.Linear(hidden + features, hidden), nn.ReLU(), nn.Linear(hidden, outputs))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits `(n, outputs)` of tokens `(n, length, features)`."""
        return self.output(torch.cat([self.encoder(tokens[:, :-1]).mean(1), tokens[:, -1]], dim=-1))


class AttentionReader(nn.Module):
    """The last token asks, and attends once to all tokens before it.

    Args:
        features: of a token.
        outputs: of the answer.
        width: of the embedded tokens.
        heads: of the attention.
    """

    def __init__(self, features: int, outputs: int, width: int = 32, heads: int = 1) -> None:
        super().__init__()
        check_counts(features=features, outputs=outputs)
        self.embed, self.output = nn.Linear(features, width), nn.Linear(width, outputs)
        self.attention = MultiHeadAttention(width, heads)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits `(n, outputs)` of tokens `(n, length, features)`."""
        x = self.embed(tokens)
        read = self.attention(x[:, -1:], self.attention.remember(x[:, :-1]))  # (n, 1, width)
        return self.output(read[:, 0])


def jacobian_products(step: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, start: Tensor) -> Tensor:
    """How the last state of a recurrent network depends on every earlier one.

    Args:
        step: `(x, state) -> next state`, for an input `(features,)` and a state `(n,)`.
        inputs: `(length, features)`.
        start: `(n,)`, the state before the first input.

    Returns:
        `(length + 1, n, n)`: at position t the derivative of the last state with respect to the state after t inputs;
        the identity at the end.
    """
    states, jacobians = [start], []
    for x in inputs:
        jacobians.append(jacrev(step, argnums=1)(x, states[-1]))
        states.append(step(x, states[-1]))
    products = [torch.eye(len(start), dtype=start.dtype, device=start.device)]
    for jacobian in reversed(jacobians):
        products.append(products[-1] @ jacobian)
    return torch.stack(products[::-1])


def soft_nearest(queries: Tensor, keys: Tensor, values: Tensor, bandwidth: float) -> Tensor:
    """Kernel regression: for each query the mean of the values, weighted by how near their keys are.

    Args:
        queries: `(..., n, d)`.
        keys: `(..., m, d)`.
        values: `(..., m, e)`.
        bandwidth: tau, a distance; the nearest neighbour as it goes to 0, the mean of all values as it grows.

    Returns:
        `(..., n, e)`.

    Raises:
        ValueError: a bandwidth that is not positive.
    """
    if not bandwidth > 0:
        raise ValueError(f"bandwidth must be positive, got {bandwidth}")
    squares = (queries[..., :, None, :] - keys[..., None, :, :]).square().sum(-1)  # (..., n, m)
    return (-squares / (2 * bandwidth**2)).softmax(-1) @ values


def positions(length: int, width: int) -> Tensor:
    """Sinusoids that tell a token its place, `(length, width)`; equation of section 3.5 of Vaswani et al.

    Raises:
        ValueError: a count below one, or an odd width.
    """
    check_counts(length=length, width=width)
    if width % 2:
        raise ValueError(f"width must be even, a sine and a cosine for each wave, got {width}")
    rates = 10_000 ** (-torch.arange(0, width, 2) / width)  # (width / 2,)
    angles = torch.arange(length)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
