"""The step of a long short-term memory, for any leading dimensions and under `torch.func.vmap`.

S. Hochreiter, J. Schmidhuber, "Long Short-Term Memory", Neural Computation 9(8), 1997, with the forget gate of
F. A. Gers, J. Schmidhuber, F. Cummins, "Learning to Forget: Continual Prediction with LSTM", Neural Computation 12(10),
2000.  From the input x and the hidden state h,

    i, f, o = sigmoid(W x + U h + b)          write, keep, read: one of each for every cell
    g = tanh(W x + U h + b)                   what could be written
    c <- f c + i g,     h <- o tanh(c).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class LSTMCell(nn.LSTMCell):
    """`torch.nn.LSTMCell` in elementary operations, since PyTorch's own has no rule for `torch.func.vmap`."""

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Input `(..., inputs)`, hidden and cell state `(..., hidden)` -> the next hidden and cell state."""
        hidden, cell = state
        gates = F.linear(x, self.weight_ih, self.bias_ih) + F.linear(hidden, self.weight_hh, self.bias_hh)
        write, keep, value, read = gates.chunk(4, dim=-1)
        cell = keep.sigmoid() * cell + write.sigmoid() * value.tanh()
        return read.sigmoid() * cell.tanh(), cell
