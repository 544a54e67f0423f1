"""Neural processes: networks that map a set of observations to a distribution over functions.

*CNP.*  M. Garnelo et al., "Conditional Neural Processes", ICML 2018.  With an encoder h and a decoder g,

    r = mean of the h(x_i, y_i)              over the observations     (their equations 1 and 2)
    y ~ N(mean, std),  mean, std = g(x, r)   for every target x        (their equation 3)

Targets are independent given r, so a prediction has a mean and a standard deviation at every input, but no coherent
sample of a function.

*NP.*  M. Garnelo et al., "Neural Processes", arXiv 1807.01622.  The representation is uncertain: z ~ q(z | S), a
normal distribution whose parameters are read from the mean of the h(x_i, y_i), and y ~ N(g(x, z)).  One z is one
function.

*Attentive NP.*  H. Kim et al., "Attentive Neural Processes", ICLR 2019.  Beside z the decoder reads r(x), in which each
target attends to the observations that are near it in a learned space.

*ConvCNP.*  J. Gordon et al., "Convolutional Conditional Neural Processes", ICLR 2020.  The observations become channels
on a lattice, a convolutional network works there, and its output is read at the targets: shift the observations
and the prediction shifts with them.

The losses are negative log-likelihoods per target, of support and query points together.  That of a latent variable is
an integral, with two bounds for L samples of z:

    ELBO = E_q(z | S, Q) [log p(y | z)] - KL(q(z | S, Q) || q(z | S))         Garnelo et al., arXiv 1807.01622
    NPML = log 1/L sum_l p(y | z_l),  z_l ~ q(z | S)                          A. Y. K. Foong et al., NeurIPS 2020

Two identities save work and change nothing else:

    mean of (W a_i + b) = W (mean of the a_i) + b          the encoder's last layer runs once per task
    W [x, r] = W_x x + W_r r                               so does the part of the decoder's first that reads r
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal, kl_divergence

from metabook.episode import Episode, Set, is_classification
from metabook.learner import Learner
from metabook.networks import mlp
from metabook.networks.cross_attention import attend
from metabook.networks.set_convolution import from_lattice, lattice, to_lattice
from metabook.tasks.distribution import check_counts


def negative_log_likelihood(prediction: Distribution, y: Tensor) -> Tensor:
    """Mean over targets of minus the log-density of `y (..., targets, outputs)`, in nats: a scalar."""
    if y.shape != prediction.batch_shape + prediction.event_shape:  # broadcasting here would be a silent mistake
        raise ValueError(
            f"predictions {tuple(prediction.batch_shape + prediction.event_shape)} and values {tuple(y.shape)} "
            "differ in shape"
        )
    return -prediction.log_prob(y).mean()


def normal(raw: Tensor, min_std: float) -> Independent:
    """The last layer's `(..., targets, 2 * outputs)` as a normal distribution of `(outputs,)` for every target."""
    mean, spread = raw.chunk(2, dim=-1)
    # without validation, which would make the host wait for a GPU
    base = Normal(mean, min_std + (1 - min_std) * F.softplus(spread), validate_args=False)
    return Independent(base, 1, validate_args=False)


def probability_below(prediction: Independent | MixtureSameFamily, y: Tensor) -> Tensor:
    """The probability of a target below `y (..., targets, outputs)`, for each output; uniform if it is calibrated.

    Args:
        prediction: normal, or a mixture of such.
        y: what was observed.
    """
    if isinstance(prediction, MixtureSameFamily):
        each = prediction.component_distribution.base_dist.cdf(y.unsqueeze(-2))  # (..., targets, components, outputs)
        return (prediction.mixture_distribution.probs.unsqueeze(-1) * each).sum(-2)
    return prediction.base_dist.cdf(y)


def elbo(log_likelihood: Tensor, posterior: Independent, prior: Independent) -> Tensor:
    """Lower bound on the log-density of all targets, `(tasks,)`.

    Args:
        log_likelihood: log p(y | z), `(samples, tasks)`, for samples from `posterior`.
        posterior, prior: of z after all points, and after the support set.
    """
    return log_likelihood.mean(0) - kl_divergence(posterior, prior)


def npml(log_likelihood: Tensor) -> Tensor:
    """Log of the mean likelihood, `(tasks,)`, for log p(y | z) `(samples, tasks)` with z from the prior.

    Its expectation rises with the number of samples, to the log-density itself.
    """
    return log_likelihood.logsumexp(0) - math.log(len(log_likelihood))


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
        _check_min_std(min_std)
        self.inputs, self.outputs, self.width, self.min_std = inputs, outputs, width, min_std
        self.encoder = mlp([inputs + outputs] + [width] * encoder_layers)
        self.decoder = mlp([inputs + width] + [width] * (decoder_layers - 1) + [2 * outputs])

    def adapt(self, support: Set) -> Tensor:
        """The representation r of one task's observations, `(width,)`; zeros where there are none."""
        return _mean_encoding(self.encoder, support)

    def distribution(self, state: Tensor, x: Tensor) -> Independent:
        """What one task's targets `x (queries, inputs)` may be: normal, `(queries,)` of `(outputs,)`."""
        return normal(_decode(self.decoder, x, state.unsqueeze(-2)), self.min_std)

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
        return _loss_at_all_points(self, episode)

    def check(self, episode: Episode) -> None:
        """Raise one clear `ValueError` if the process cannot work on this batch."""
        super().check(episode)
        _check_shapes(episode, self.inputs, self.outputs)


class Belief(NamedTuple):
    """What a latent process keeps of one task."""

    mean: Tensor  # (latent,) of z
    std: Tensor  # (latent,)
    keys: Tensor | None = None  # (examples, width), what a target's query is compared with
    values: Tensor | None = None  # (examples, width), what it then reads

    @property
    def z(self) -> Independent:
        """The distribution of z."""
        return Independent(Normal(self.mean, self.std, validate_args=False), 1, validate_args=False)


class NeuralProcess(Learner):
    """A latent variable z decides the whole function; with `heads`, targets also attend to the observations.

    As in the published notebook of the attentive process, the deterministic path has an encoder of its own.  Its
    self-attention among observations is left out.

    Args:
        inputs, outputs, width, encoder_layers, decoder_layers, min_std: as for `ConditionalNeuralProcess`.
        latent: dimension of z.
        heads: of the cross-attention; 0 for a process without it, whose decoder reads nothing but x and z.
        samples: of z in the loss.
        objective: "npml" or "elbo".

    Raises:
        ValueError: a size below one, a bound outside (0, 1), heads that do not divide the width, another objective.
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 1,
        width: int = 128,
        latent: int = 128,
        heads: int = 0,
        samples: int = 8,
        objective: str = "npml",
        encoder_layers: int = 4,
        decoder_layers: int = 3,
        min_std: float = 0.1,
    ) -> None:
        super().__init__(loss=negative_log_likelihood)
        check_counts(inputs=inputs, outputs=outputs, width=width, latent=latent, samples=samples)
        check_counts(encoder_layers=encoder_layers, decoder_layers=decoder_layers)
        _check_min_std(min_std)
        if objective not in ("npml", "elbo"):
            raise ValueError(f'objective must be "npml" or "elbo", got {objective!r}')
        if heads < 0 or (heads and width % heads):
            raise ValueError(f"heads must divide the width {width}, or be 0, got {heads}")
        self.inputs, self.outputs, self.min_std = inputs, outputs, min_std
        self.heads, self.samples, self.objective = heads, samples, objective
        self.encoder = mlp([inputs + outputs] + [width] * (encoder_layers - 1) + [2 * latent])
        if heads:
            self.values = mlp([inputs + outputs] + [width] * encoder_layers)
            self.keys = mlp([inputs, width, width])
        read = latent + (width if heads else 0)
        self.decoder = mlp([inputs + read] + [width] * (decoder_layers - 1) + [2 * outputs])

    def adapt(self, support: Set) -> Belief:
        """The belief about z, `(latent,)`, and what targets may attend to."""
        mean, spread = _mean_encoding(self.encoder, support).chunk(2, dim=-1)
        std = 0.1 + 0.9 * spread.sigmoid()
        if not self.heads:
            return Belief(mean, std)
        return Belief(mean, std, self.keys(support.x), self.values(torch.cat(support, dim=-1)))

    def functions(self, state: Belief, x: Tensor, z: Tensor) -> Independent:
        """Targets `x (..., queries, inputs)` given z `(samples, ..., latent)`: normal, `(samples, ..., queries)`."""
        read = [z.unsqueeze(-2)]
        if self.heads:
            attended = attend(self.keys(x), state.keys, state.values, self.heads)  # (..., queries, width)
            read.append(attended.expand(len(z), *attended.shape))
        return normal(_decode(self.decoder, x, *read), self.min_std)

    def distribution(
        self, state: Belief, x: Tensor, samples: int = 32, generator: torch.Generator | None = None
    ) -> MixtureSameFamily:
        """What each target may be, on its own: a mixture over samples of z, `(queries,)` of `(outputs,)`."""
        each = self.functions(state, x, draw(state.z, samples, generator))
        mean, std = (t.movedim(0, -2) for t in (each.base_dist.loc, each.base_dist.scale))
        components = Independent(Normal(mean, std, validate_args=False), 1, validate_args=False)
        weights = Categorical(logits=mean.new_zeros(mean.shape[:-1]), validate_args=False)
        return MixtureSameFamily(weights, components, validate_args=False)

    def predict(self, state: Belief, x: Tensor) -> Tensor:
        """The function at the mean of z, `(queries, outputs)`."""
        return self.functions(state, x, state.mean.unsqueeze(0)).mean[0]

    def forward(self, episode: Episode) -> Tensor:
        """Predictions for the queries of every task, `(tasks, queries, outputs)`: the networks run once on all."""
        return self.predict(self.adapt(episode.support), episode.query.x)

    def bound(self, episode: Episode, samples: int, generator: torch.Generator | None = None) -> Tensor:
        """The objective of each task, a lower bound on the log-density of all its points together: `(tasks,)`."""
        x, y = _all_points(episode)
        state = self.adapt(episode.support)
        belief = self.adapt(Set(x, y)).z if self.objective == "elbo" else state.z
        each = self.functions(state, x, draw(belief, samples, generator))
        log_likelihood = each.log_prob(y).sum(-1)  # (samples, tasks)
        return npml(log_likelihood) if self.objective == "npml" else elbo(log_likelihood, belief, state.z)

    def loss_and_prediction(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """Minus the objective per target, and the predictions for the queries; z from torch's global generator."""
        targets = episode.support.x.shape[1] + episode.query.x.shape[1]
        return -self.bound(episode, self.samples).mean() / targets, self(episode)

    def check(self, episode: Episode) -> None:
        """Raise one clear `ValueError` if the process cannot work on this batch."""
        super().check(episode)
        _check_shapes(episode, self.inputs, self.outputs)


class ConvCNP(Learner):
    """Set convolution, convolutions, set convolution; its state is the support set.

    `adapt`, `distribution` and `predict` take one task or, with the task dimension in front, several.

    Args:
        inputs: features of x, 1 or 2.
        outputs: number of values in y.
        spacing: of the lattice, in units of x.
        channels: of the convolutions.
        kernel: points of a filter along an axis, odd.
        dilations: the distance of these points, for each of the residual layers.  Together the layers see
            `sum(dilations) * (kernel // 2)` lattice points to either side.
        margin: lattice points beyond the outermost input.  By default as many as the layers see, and a few more: then
            no target sees where the lattice ends, so none depends on the others.
        min_std: as for `ConditionalNeuralProcess`.

    Raises:
        ValueError: a size or dilation below one, an even kernel, more than two features, a bound outside (0, 1).
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 1,
        spacing: float = 1 / 16,
        channels: int = 32,
        kernel: int = 5,
        dilations: Sequence[int] = (1, 2, 4, 8, 4, 2, 1),
        margin: int | None = None,
        min_std: float = 0.1,
    ) -> None:
        super().__init__(loss=negative_log_likelihood)
        check_counts(
            inputs=inputs, outputs=outputs, channels=channels, kernel=kernel, dilation=min(dilations, default=0)
        )
        _check_min_std(min_std)
        if inputs > 2 or kernel % 2 == 0 or spacing <= 0:
            raise ValueError(
                f"inputs must be 1 or 2, the kernel odd and the spacing positive, got {inputs}, {kernel} and {spacing}"
            )
        self.inputs, self.outputs, self.min_std, self.spacing = inputs, outputs, min_std, spacing
        self.margin = sum(dilations) * (kernel // 2) + 4 if margin is None else margin  # 4: the reach of a bump
        conv = (nn.Conv1d, nn.Conv2d)[inputs - 1]
        self.lift = conv(1 + outputs, channels, 1)
        self.blocks = nn.ModuleList(
            conv(channels, channels, kernel, padding="same", dilation=dilation) for dilation in dilations
        )
        self.head = mlp([channels, channels, 2 * outputs])
        self.log_lengths = nn.Parameter(torch.full((2,), math.log(spacing)))  # of the two bumps

    def adapt(self, support: Set) -> Set:
        """Nothing to do: the state is the support set."""
        return support

    def distribution(self, state: Set, x: Tensor) -> Independent:
        """What the targets `x (queries, inputs)` may be: normal, `(queries,)` of `(outputs,)`."""
        if x.ndim == 2:  # one task
            (support_x, support_y), queries = (t[None] for t in state), x[None]
            return normal(self._raw(support_x, support_y, queries)[0], self.min_std)
        return normal(self._raw(*state, x), self.min_std)

    def _raw(self, x: Tensor, y: Tensor, queries: Tensor) -> Tensor:
        into, back = self.log_lengths.exp()
        axes = lattice(torch.cat([x, queries], dim=1), self.spacing, self.margin)
        h = self.lift(to_lattice(x, y, axes, into))  # (tasks, channels, *lattice)
        for block in self.blocks:
            h = h + block(h.relu())
        return self.head(from_lattice(h, queries, axes, back))

    def predict(self, state: Set, x: Tensor) -> Tensor:
        """The means alone, `(queries, outputs)`."""
        return self.distribution(state, x).mean

    def forward(self, episode: Episode) -> Tensor:
        """Means of the queries of every task, `(tasks, queries, outputs)`."""
        return self.predict(self.adapt(episode.support), episode.query.x)

    def loss_and_prediction(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood of support and query together, and the means of the queries."""
        return _loss_at_all_points(self, episode)

    def check(self, episode: Episode) -> None:
        """Raise one clear `ValueError` if the process cannot work on this batch."""
        super().check(episode)
        _check_shapes(episode, self.inputs, self.outputs)


def draw(z: Independent, samples: int, generator: torch.Generator | None = None) -> Tensor:
    """Samples `(samples, ..., latent)` of a normal z, by the generator or else torch's own."""
    mean, std = z.base_dist.loc, z.base_dist.scale
    noise = torch.randn((samples, *mean.shape), generator=generator, dtype=mean.dtype, device=mean.device)
    return mean + std * noise


def _mean_encoding(encoder: nn.Sequential, support: Set) -> Tensor:
    if support.x.shape[-2] == 0:
        return support.x.new_zeros(*support.x.shape[:-2], encoder[-1].out_features)
    pairs = torch.cat(support, dim=-1)  # (..., examples, inputs + outputs)
    return encoder[-1](encoder[:-1](pairs).mean(-2))


def _decode(decoder: nn.Sequential, x: Tensor, *read: Tensor) -> Tensor:
    """The decoder at [x, *read], which broadcast against each other, without repeating any of them."""
    first, rest = decoder[0], decoder[1:]
    weights = first.weight.split([part.shape[-1] for part in (x, *read)], dim=1)
    terms = [F.linear(part, weight) for part, weight in zip((x, *read), weights, strict=True)]
    return rest(sum(terms[1:], first.bias) + terms[0])


def _all_points(episode: Episode) -> Set:
    return Set(*(torch.cat(both, dim=1) for both in zip(*episode, strict=True)))  # (tasks, targets, ...)


def _check_min_std(min_std: float) -> None:
    if not 0 < min_std < 1:
        raise ValueError(f"min_std must lie between 0 and 1, got {min_std}; bring the values y to unit scale")


def _loss_at_all_points(process: ConditionalNeuralProcess | ConvCNP, episode: Episode) -> tuple[Tensor, Tensor]:
    x, y = _all_points(episode)
    targets = process.distribution(process.adapt(episode.support), x)
    return process.loss(targets, y), targets.mean[:, episode.support.x.shape[1] :]


def _check_shapes(episode: Episode, inputs: int, outputs: int) -> None:
    for name, (x, y) in zip(("support", "query"), episode, strict=True):
        if is_classification(y):
            raise ValueError(
                f"{name}.y holds classes ({y.dtype}), but this is regression: give values in floating point"
            )
        if x.shape[2:] != (inputs,) or y.shape[2:] != (outputs,):
            raise ValueError(
                f"{name} has inputs {tuple(x.shape)} and values {tuple(y.shape)}, expected (tasks, examples, "
                f"{inputs}) and (tasks, examples, {outputs}); set inputs and outputs of the process"
            )
