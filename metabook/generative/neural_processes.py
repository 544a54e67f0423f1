"""The conditional neural process: a network that maps a set of observations to a distribution over functions.

M. Garnelo, D. Rosenbaum, C. J. Maddison, T. Ramalho, D. Saxton, M. Shanahan, Y. W. Teh, D. J. Rezende,
S. M. A. Eslami, "Conditional Neural Processes", ICML 2018.  With an encoder h and a decoder g,

    r_i = h(x_i, y_i)                    for every observation         (their equation 1)
    r   = mean of the r_i                the representation            (their equation 2, with the mean)
    mean, std = g(x, r)                  of y, for every target x      (their equation 3)

and the parameters minimise the negative log-likelihood of the targets, which are observed and unobserved points
together (their equation 4).  Targets are independent given r, so a prediction has a mean and a standard deviation at
every input, but no coherent sample of a function.

Two identities save work and change nothing else:

    mean of (W a_i + b) = W (mean of the a_i) + b          the encoder's last layer runs once per task
    W [x, r] = W_x x + W_r r                               so does the part of the decoder's first that reads r
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from metabook.episode import Episode, Set, is_classification
from metabook.learner import Learner
from metabook.networks import mlp
from metabook.tasks.distribution import check_counts


class Gaussian(NamedTuple):
    """Independent normal distributions, one per target and output."""

    mean: Tensor  # (..., targets, outputs)
    std: Tensor  # (..., targets, outputs)

    def log_prob(self, y: Tensor) -> Tensor:
        """Log-density in nats of `y (..., targets, outputs)`, summed over the outputs: `(..., targets)`."""
        if y.shape != self.mean.shape:  # broadcasting here would be a silent mistake
            raise ValueError(f"predictions {tuple(self.mean.shape)} and values {tuple(y.shape)} differ in shape")
        z = (y - self.mean) / self.std
        return -(0.5 * z.square() + self.std.log() + 0.5 * math.log(2 * math.pi)).sum(-1)


def negative_log_likelihood(prediction: Gaussian, y: Tensor) -> Tensor:
    """Mean over targets of minus the log-density of `y (..., targets, outputs)`, in nats: a scalar."""
    return -prediction.log_prob(y).mean()


class ConditionalNeuralProcess(Learner):
    """Regression by two networks that all tasks share; its state is the representation `(width,)`.

    `adapt`, `distribution` and `predict` also take tensors with the task dimension in front, and return it in front.

    Args:
        inputs: number of features of x.
        outputs: number of values in y.
        width: of the hidden layers and of the representation.
        encoder_layers: linear layers of h, `inputs + outputs -> width`.
        decoder_layers: linear layers of g, `inputs + width -> 2 * outputs`.
        min_std: lower bound of the standard deviation, in units of y: it is
            `min_std + (1 - min_std) * softplus(.)`, so that no point can be fitted with ever growing density.

    The defaults are those of the authors' published notebook: widths 128, four and three layers, a bound of 0.1.

    Raises:
        ValueError: a size below one, or a bound outside (0, 1).
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 1,
        width: int = 128,
        encoder_layers: int = 4,
        decoder_layers: int = 3,
        min_std: float = 0.1,
    ) -> None:
        super().__init__(loss=negative_log_likelihood)
        check_counts(
            inputs=inputs, outputs=outputs, width=width, encoder_layers=encoder_layers, decoder_layers=decoder_layers
        )
        if not 0 < min_std < 1:
            raise ValueError(f"min_std must lie between 0 and 1, got {min_std}; bring the values y to unit scale")
        self.inputs, self.outputs, self.width, self.min_std = inputs, outputs, width, min_std
        self.encoder = mlp([inputs + outputs] + [width] * encoder_layers)
        self.decoder = mlp([inputs + width] + [width] * (decoder_layers - 1) + [2 * outputs])

    def adapt(self, support: Set) -> Tensor:
        """The representation r of one task's observations, `(width,)`."""
        pairs = torch.cat([support.x, support.y], dim=-1)  # (..., examples, inputs + outputs)
        return self.encoder[-1](self.encoder[:-1](pairs).mean(-2))

    def distribution(self, state: Tensor, x: Tensor) -> Gaussian:
        """What one task's targets `x (queries, inputs)` may be: mean and standard deviation, `(queries, outputs)`."""
        first, rest = self.decoder[0], self.decoder[1:]
        weight_x, weight_r = first.weight.split([self.inputs, self.width], dim=1)
        once_per_task = F.linear(state, weight_r, first.bias).unsqueeze(-2)  # (..., 1, width)
        mean, raw = rest(once_per_task + F.linear(x, weight_x)).chunk(2, dim=-1)
        return Gaussian(mean, self.min_std + (1 - self.min_std) * F.softplus(raw))

    def predict(self, state: Tensor, x: Tensor) -> Tensor:
        """The means alone, `(queries, outputs)`: the best guess in squared error, which is how values are scored."""
        return self.distribution(state, x).mean

    def forward(self, episode: Episode) -> Tensor:
        """Means of the queries of every task, `(tasks, queries, outputs)`: the networks run once on all tasks."""
        return self.predict(self.adapt(episode.support), episode.query.x)

    def loss_and_prediction(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood of support and query together, and the means of the queries.

        The paper draws the number of observations at random; here it is the episode's number of shots.
        """
        x, y = (torch.cat(both, dim=1) for both in zip(*episode, strict=True))  # (tasks, targets, ...)
        targets = self.distribution(self.adapt(episode.support), x)
        return self.loss(targets, y), targets.mean[:, episode.support.x.shape[1] :]

    def check(self, episode: Episode) -> None:
        """Raise one clear `ValueError` if the process cannot work on this batch."""
        super().check(episode)
        for name, (x, y) in zip(("support", "query"), episode, strict=True):
            if is_classification(y):
                raise ValueError(
                    f"{name}.y holds classes ({y.dtype}), but this is regression: give values in floating point"
                )
            if x.shape[2:] != (self.inputs,) or y.shape[2:] != (self.outputs,):
                raise ValueError(
                    f"{name} has inputs {tuple(x.shape)} and values {tuple(y.shape)}, expected (tasks, examples, "
                    f"{self.inputs}) and (tasks, examples, {self.outputs}); set inputs and outputs of the process"
                )
