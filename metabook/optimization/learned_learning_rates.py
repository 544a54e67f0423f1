"""How long should a step be?  Learning rates that are learned, with the start or during training.

Four answers, each in its place of the gradient step w <- w - alpha * g:

- Meta-SGD: one number for each weight, learned with the start
  (Z. Li, F. Zhou, F. Chen, H. Li, "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning", arXiv:1707.09835, 2017).
- MAML++: one for each layer and step, a loss after every step, and first-order gradients at first
  (A. Antoniou, H. Edwards, A. Storkey, "How to Train Your MAML", ICLR 2019).
- A schedule: alpha_t = f_alpha(phi, t, D), a network over the features of the training, learned with the start.
- Hypergradients: the rate follows its own gradient while one network trains, and nothing is meta-learned
  (A. G. Baydin et al., "Online Learning Rate Adaptation with Hypergradient Descent", ICLR 2018).

The derivative of what a step achieves by the rate of weight i is the product of two gradients,

    d L(w - alpha * g) / d alpha_i  =  -g_i * (grad L)_i at the new weights,

so a rate grows where the gradients before and after the step agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value, vmap

from metabook.episode import Episode, Set
from metabook.learner import Learner, task_loss
from metabook.networks import mlp
from metabook.optimization.maml import Weights, check_inner_loop


def step_with_rates(
    loss: Callable[[Weights], Tensor], weights: Weights, rates: Mapping[str, Tensor], first_order: bool = False
) -> Weights:
    """One gradient step in which every tensor of weights has rates of its own.

    Args:
        loss: maps weights to a scalar.
        weights: where the step starts, by name.
        rates: by the same names, each of a shape that broadcasts to that of the weights: one number for the whole
            tensor, or one for each weight.
        first_order: take the gradient as a constant.

    Returns:
        The weights after the step, differentiable in `weights` and in `rates`.
    """
    here = {name: w.detach() for name, w in weights.items()} if first_order else weights
    gradient = grad(loss)(here)
    return {name: w - rates[name] * gradient[name] for name, w in weights.items()}


class MetaSGD(Learner):
    """A start and a rate for each of its weights, learned together; its state is the adapted weights.

    With all rates equal it is MAML.  A rate may become negative: its weight then moves against the support set.

    Args:
        network: as in `MAML`.
        inner_lr: what every rate is before training.
        inner_steps: gradient steps on the support set, all with the same rates; the paper takes one.
        first_order: take the inner gradients as constants; the rates are learned all the same.
        loss: `(prediction, y) -> scalar` of the inner and the outer loop.

    Raises:
        ValueError: as in `MAML`.
    """

    def __init__(
        self,
        network: nn.Module,
        inner_lr: float = 0.01,
        inner_steps: int = 1,
        first_order: bool = False,
        loss: Callable[[Tensor, Tensor], Tensor] = task_loss,
    ) -> None:
        super().__init__(loss=loss)
        check_inner_loop(network, inner_lr, inner_steps)
        self.network = network
        self.rates = nn.ParameterList(torch.full_like(p, inner_lr) for p in network.parameters())
        self.inner_steps, self.first_order = inner_steps, first_order

    def adapt(self, support: Set) -> Weights:
        """Take `inner_steps` gradient steps on the support loss: the adapted weights, by name."""
        weights = dict(self.network.named_parameters())
        rates = dict(zip(weights, self.rates, strict=True))
        for _ in range(self.inner_steps):
            weights = step_with_rates(
                lambda weights: self.loss(self.predict(weights, support.x), support.y),
                weights,
                rates,
                self.first_order,
            )
        return weights

    def predict(self, state: Weights, x: Tensor) -> Tensor:
        """The network with the adapted weights: `(queries, *features) -> (queries, outputs)`."""
        return functional_call(self.network, state, (x,))


class MAMLPlusPlus(Learner):
    """A start, and a rate for each layer at each inner step; trained by a loss after every step.

    A layer is a tensor of parameters: weight and bias have rates of their own.  Batch normalisation with statistics
    per step, the remaining part of the paper, is left out.

    Args:
        network: as in `MAML`.
        inner_lr: what every rate is before training.
        inner_steps: gradient steps on the support set.  It may be changed after training; steps beyond those that
            were learned repeat the rates of the last one.
        step_weights: how much the query loss after each step counts in training, `(inner_steps,)`; only the last one
            by default, as in MAML.  May be changed during training, see `annealing`.
        first_order: take the inner gradients as constants.  May be changed during training, see `annealing`.
        loss: `(prediction, y) -> scalar` of the inner and the outer loop.

    Raises:
        ValueError: as in `MAML`, or no step at all, or weights of another number than the steps.
    """

    def __init__(
        self,
        network: nn.Module,
        inner_lr: float = 0.01,
        inner_steps: int = 5,
        step_weights: Iterable[float] | None = None,
        first_order: bool = False,
        loss: Callable[[Tensor, Tensor], Tensor] = task_loss,
    ) -> None:
        super().__init__(loss=loss)
        check_inner_loop(network, inner_lr, inner_steps)
        if inner_steps < 1:
            raise ValueError("rates for each step need at least one inner step, got 0")
        self.network = network
        layers = sum(1 for _ in network.parameters())
        like = next(network.parameters())
        self.rates = nn.Parameter(torch.full((layers, inner_steps), inner_lr, dtype=like.dtype, device=like.device))
        self.inner_steps, self.first_order = inner_steps, first_order
        self.step_weights = [0.0] * (inner_steps - 1) + [1.0] if step_weights is None else list(step_weights)
        self._check_step_weights()

    def adapt(self, support: Set) -> Weights:
        """Take `inner_steps` gradient steps on the support loss: the adapted weights, by name."""
        return self.trajectory(support)[-1]

    def trajectory(self, support: Set) -> list[Weights]:
        """The weights after 0, 1, ..., `inner_steps` steps, by name."""
        path = [dict(self.network.named_parameters())]
        for step in range(self.inner_steps):
            column = self.rates[:, min(step, self.rates.shape[1] - 1)]  # (layers,)
            path.append(
                step_with_rates(
                    lambda weights: self.loss(self.predict(weights, support.x), support.y),
                    path[-1],
                    dict(zip(path[-1], column, strict=True)),
                    self.first_order,
                )
            )
        return path

    def predict(self, state: Weights, x: Tensor) -> Tensor:
        """The network with the adapted weights: `(queries, *features) -> (queries, outputs)`."""
        return functional_call(self.network, state, (x,))

    def loss_and_prediction(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """The weighted mean of the query losses after each step, and the predictions after the last one."""
        self._check_step_weights()
        predictions = vmap(self._after_each_step, randomness="different")(episode.support, episode.query.x)
        losses = [w * self.loss(p, episode.query.y) for w, p in zip(self.step_weights, predictions, strict=True) if w]
        return torch.stack(losses).sum(), predictions[-1]

    def get_extra_state(self) -> dict[str, object]:
        """What `annealing` changes travels with the weights, so that a run that was stopped goes on where it was."""
        return {"first_order": self.first_order, "step_weights": self.step_weights}

    def set_extra_state(self, state: dict[str, object]) -> None:
        """Take over what `get_extra_state` gave."""
        self.first_order, self.step_weights = state["first_order"], state["step_weights"]

    def _after_each_step(self, support: Set, x: Tensor) -> list[Tensor]:
        return [self.predict(weights, x) for weights in self.trajectory(support)[1:]]

    def _check_step_weights(self) -> None:
        weights = self.step_weights
        if len(weights) != self.inner_steps or min(weights) < 0 or not max(weights) > 0:
            raise ValueError(
                f"step_weights needs one number for each of {self.inner_steps} steps, none negative and one positive, "
                f"got {weights}"
            )


def multi_step_weights(steps: int, progress: float) -> list[float]:
    """Weights of the query losses after each step: all equal at first, only the last one in the end.

    Args:
        steps: number of inner steps.
        progress: from 0 (all 1 / steps) to 1; numbers outside count as the nearer end.

    Returns:
        `steps` weights whose sum is one.
    """
    early = (1 - min(max(progress, 0.0), 1.0)) / steps
    return [early] * (steps - 1) + [1 - (steps - 1) * early]


def annealing(second_order_from: int, last_step_only_from: int) -> Callable[[int, MAMLPlusPlus], None]:
    """The two schedules of MAML++, for `on_step` of `meta_train`.

    Args:
        second_order_from: outer steps that are taken with first-order gradients; the rest is exact.
        last_step_only_from: outer steps in which the weight of the early losses falls to zero, linearly.

    Returns:
        `anneal(step, learner)`, which prepares the learner for the outer step after `step`; call it once with 0 before
        training.
    """

    def anneal(step: int, learner: MAMLPlusPlus) -> None:
        learner.first_order = step < second_order_from
        progress = 1.0 if step >= last_step_only_from else step / last_step_only_from
        learner.step_weights = multi_step_weights(learner.inner_steps, progress)

    return anneal


class ScheduledMAML(Learner):
    """A start, and a network that says how long each step is: alpha_t = f_alpha(phi, t, D).

    The rate of step t is `inner_lr * exp(output)`, one positive number for all weights, from three features of the
    training so far: t, the log of the support loss, and the log of its gradient's norm.  Before training the output
    is 0 whatever the features are, and the learner is MAML.

    Args:
        network: as in `MAML`.
        inner_lr: the rate of every step before training.
        inner_steps: gradient steps on the support set; may be changed between training and evaluation.
        first_order: take the inner gradients, and the features, as constants.
        hidden: width of the one hidden layer of f_alpha.
        loss: `(prediction, y) -> scalar` of the inner and the outer loop.

    Raises:
        ValueError: as in `MAML`.
    """

    def __init__(
        self,
        network: nn.Module,
        inner_lr: float = 0.01,
        inner_steps: int = 5,
        first_order: bool = False,
        hidden: int = 16,
        loss: Callable[[Tensor, Tensor], Tensor] = task_loss,
    ) -> None:
        super().__init__(loss=loss)
        check_inner_loop(network, inner_lr, inner_steps)
        self.network, self.inner_lr = network, inner_lr
        self.inner_steps, self.first_order = inner_steps, first_order
        self.schedule = mlp([3, hidden, 1], nn.Tanh).to(next(network.parameters()))
        nn.init.zeros_(self.schedule[-1].weight)
        nn.init.zeros_(self.schedule[-1].bias)

    def rate(self, step: int, loss: Tensor, gradient: Weights) -> Tensor:
        """The rate of one step, a scalar, from its number, the support loss and its gradient by name."""
        squared_norm = sum(g.square().sum() for g in gradient.values())
        features = torch.stack([torch.full_like(loss, step), _log(loss), 0.5 * _log(squared_norm)])  # (3,)
        return self.inner_lr * self.schedule(features).squeeze(-1).exp()

    def adapt(self, support: Set) -> Weights:
        """Take `inner_steps` gradient steps on the support loss: the adapted weights, by name."""
        return self.descend(support)[0]

    def descend(self, support: Set) -> tuple[Weights, Tensor]:
        """The adapted weights, by name, and the rates of the steps that led to them, `(inner_steps,)`."""
        weights, rates = dict(self.network.named_parameters()), []
        for step in range(self.inner_steps):
            here = {name: w.detach() for name, w in weights.items()} if self.first_order else weights
            gradient, loss = grad_and_value(lambda weights: self.loss(self.predict(weights, support.x), support.y))(
                here
            )
            rates.append(self.rate(step, loss, gradient))
            weights = {name: w - rates[-1] * gradient[name] for name, w in weights.items()}
        return weights, torch.stack(rates) if rates else support.x.new_empty(0)

    def predict(self, state: Weights, x: Tensor) -> Tensor:
        """The network with the adapted weights: `(queries, *features) -> (queries, outputs)`."""
        return functional_call(self.network, state, (x,))


def _log(value: Tensor) -> Tensor:
    return (value + 1e-8).log()  # a perfect fit has loss 0


class HypergradientSGD(torch.optim.Optimizer):
    """Gradient descent whose rate follows its own gradient (Baydin et al., algorithm for SGD-HD).

    With g_t the gradient before step t, the loss changes with the rate of the step before as -g_t . g_{t-1}, so

        alpha_t = alpha_{t-1} + hyper_lr * g_t . g_{t-1}
        w_t = w_{t-1} - alpha_t * g_t

    Each group of parameters has a rate of its own, `group["lr"]`.

    Args:
        params: parameters or groups, as for any torch optimiser.
        lr: the rate of the first step.
        hyper_lr: the rate of the rate; 0 is plain gradient descent.

    Raises:
        ValueError: a rate below zero.
    """

    def __init__(self, params: Iterable, lr: float = 0.01, hyper_lr: float = 1e-4) -> None:
        if lr < 0 or hyper_lr < 0:
            raise ValueError(f"lr and hyper_lr cannot be negative, got {lr} and {hyper_lr}")
        super().__init__(params, {"lr": lr, "hyper_lr": hyper_lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Change the rate of each group, then its weights; `closure` computes the loss anew, as in torch."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moving = [p for p in group["params"] if p.grad is not None]
            agreement = sum((p.grad * self.state[p]["gradient"]).sum() for p in moving if self.state[p])
            group["lr"] = group["lr"] + group["hyper_lr"] * agreement
            for p in moving:
                self.state[p]["gradient"] = p.grad.clone()
                p.sub_(group["lr"] * p.grad)
        return loss
