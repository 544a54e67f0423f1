"""A start that depends on the task: an encoder reads the support set and modulates the start of gradient descent.

R. Vuorio, S.-H. Sun, H. Hu, J. J. Lim, "Multimodal Model-Agnostic Meta-Learning via Task-Aware Modulation", NeurIPS
2019.  MAML has one start for all tasks.  Here the support set S of a task is mapped to an embedding z, by the mean
over its pairs so that their order does not matter, and z to a scale and a shift of every hidden unit:

    z = mean over S of h(x, y)
    gamma, delta = g(z)
    W <- (1 + gamma) W,  b <- (1 + gamma) b + delta        of every hidden layer, row by row

which is the feature-wise linear modulation (FiLM) of E. Perez, F. Strub, H. de Vries, V. Dumoulin, A. Courville, "FiLM:
Visual Reasoning with a General Conditioning Layer", AAAI 2018, written into the weights.  From this start the inner
loop is that of MAML.  Vuorio et al. encode with a recurrent network, and their inner loop descends in the shared W and
b with the modulation around them; both make the same function before the first step.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from metabook.episode import Episode, Set, is_classification
from metabook.learner import Learner, task_loss
from metabook.networks import mlp
from metabook.optimization.maml import Weights, check_inner_loop, descend
from metabook.tasks.distribution import check_counts


def modulate(weights: Weights, layers: dict[str, tuple[Tensor, Tensor]]) -> Weights:
    """Scale and shift the units of some layers, by changing their weights.

    Args:
        weights: of a network, by name.
        layers: by the name of a linear layer, `gamma (units,)` and `delta (units,)`.

    Returns:
        Weights with which unit `i` of such a layer is `(1 + gamma_i)` times what it was, plus `delta_i`.
    """
    weights = dict(weights)
    for name, (gamma, delta) in layers.items():
        weight, bias = f"{name}.weight", f"{name}.bias"
        weights[weight] = (1 + gamma)[:, None] * weights[weight]
        weights[bias] = (1 + gamma) * weights[bias] + delta
    return weights


class ConditionedMAML(Learner):
    """MAML whose start is a function of the support set; its state is the weights adapted to one task.

    Fresh from its constructor it is MAML: the modulation begins at zero.

    Args:
        network: linear layers with activations between them, as `mlp` makes them.  All hidden layers are modulated.
        width: of the embedding, and of the hidden layers that make it and read it.
        inner_lr: inner rate alpha.
        inner_steps: gradient steps on the support set; with 0 the network is conditional and nothing descends.
        first_order: drop the second derivatives.
        loss: `(prediction, y) -> scalar` of the inner and the outer loop.

    Raises:
        ValueError: a rate or number of steps below zero, a width below one, or a network that is no such sequence or
            has no hidden layer.
    """

    def __init__(
        self,
        network: nn.Sequential,
        width: int = 32,
        inner_lr: float = 0.01,
        inner_steps: int = 1,
        first_order: bool = False,
        loss: Callable[[Tensor, Tensor], Tensor] = task_loss,
    ) -> None:
        super().__init__(loss=loss)
        check_counts(width=width)
        check_inner_loop(network, inner_lr, inner_steps)
        linear = {name: layer for name, layer in network.named_children() if isinstance(layer, nn.Linear)}
        if len(linear) < 2 or {*network.parameters()} != {p for layer in linear.values() for p in layer.parameters()}:
            raise ValueError("the network must be a sequence of linear layers and activations with a hidden layer")
        *hidden, last = linear
        self.network = network
        self.units = {name: linear[name].out_features for name in hidden}
        self.pair_size = linear[hidden[0]].in_features + linear[last].out_features
        self.encoder = mlp([self.pair_size, width, width, width])  # h
        self.modulator = mlp([width, width, 2 * sum(self.units.values())])  # g
        nn.init.zeros_(self.modulator[-1].weight)
        nn.init.zeros_(self.modulator[-1].bias)
        self.inner_lr, self.inner_steps, self.first_order = inner_lr, inner_steps, first_order

    def embed(self, support: Set) -> Tensor:
        """What the support set says about its task: `(..., examples, features)` -> z, `(..., width)`."""
        return self.encoder(torch.cat(support, dim=-1)).mean(-2)

    def start(self, support: Set) -> Weights:
        """Where gradient descent on one task begins: the modulated weights, by name."""
        gamma, delta = self.modulator(self.embed(support)).chunk(2)
        sizes = list(self.units.values())
        layers = dict(zip(self.units, zip(gamma.split(sizes), delta.split(sizes), strict=True), strict=True))
        return modulate(dict(self.network.named_parameters()), layers)

    def adapt(self, support: Set) -> Weights:
        """Take `inner_steps` gradient steps on the support loss, from the start of this task: weights by name."""
        return descend(
            lambda weights: self.loss(self.predict(weights, support.x), support.y),
            self.start(support),
            self.inner_lr,
            self.inner_steps,
            self.first_order,
        )

    def predict(self, state: Weights, x: Tensor) -> Tensor:
        """The network with the adapted weights: `(queries, features) -> (queries, outputs)`."""
        return functional_call(self.network, state, (x,))

    def check(self, episode: Episode) -> None:
        """Raise one clear `ValueError` if the learner cannot work on this batch."""
        super().check(episode)
        x, y = episode.support
        if is_classification(y) or x.ndim != 3 or x.shape[-1] + y.shape[-1] != self.pair_size:
            raise ValueError(
                f"support.x is {tuple(x.shape)} and support.y {tuple(y.shape)} of {y.dtype}, but the encoder reads "
                f"pairs of {self.pair_size} numbers: inputs (tasks, examples, features) and values of the network"
            )
