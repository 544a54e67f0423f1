"""Model-agnostic meta-learning: learn a start from which a few gradient steps are enough.

C. Finn, P. Abbeel, S. Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", ICML 2017.
The inner loop starts at the meta-parameters phi and takes gradient steps on the support loss (their equation 1);
the meta-loss is the query loss at the adapted weights (their algorithm 1, line 8):

    phi' = phi - alpha * grad L_support(phi)            inner loop, repeated
    min over phi of  mean over tasks of L_query(phi')    outer loop

Backpropagation through the inner loop gives the exact meta-gradient, second derivatives included.  First-order
MAML takes the inner gradients as constants: its meta-gradient is the query gradient at the adapted weights.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.func import functional_call, grad

from metabook.episode import Set
from metabook.learner import Learner, task_loss
from metabook.recompute import recomputed

Weights = dict[str, Tensor]


def descend(
    loss: Callable[[Weights], Tensor], weights: Weights, lr: float, steps: int, first_order: bool = False
) -> Weights:
    """Gradient descent as a function, from weights to weights.

    Args:
        loss: maps weights to a scalar.
        weights: the start, by name.
        lr: inner rate alpha.
        steps: number of steps; 0 returns the start.
        first_order: take each gradient as a constant, so that only the identity connects the result to the start.

    Returns:
        The weights after `steps` steps, differentiable in `weights`.
    """
    for _ in range(steps):
        here = {name: w.detach() for name, w in weights.items()} if first_order else weights
        gradient = grad(loss)(here)
        weights = {name: w - lr * gradient[name] for name, w in weights.items()}
    return weights


class MAML(Learner):
    """A start shared by all tasks; its state is the weights adapted to one task.

    Args:
        network: any network whose forward works on one task's examples, `(examples, *features) -> (examples, outputs)`.
            All its parameters are adapted.
        inner_lr: inner rate alpha.
        inner_steps: gradient steps on the support set; may be changed between training and evaluation.
        first_order: drop the second derivatives (FOMAML).
        loss: `(prediction, y) -> scalar` of the inner and the outer loop.
        recompute: keep only the weights between inner steps and compute each step again for its gradient: memory that
            hardly grows with the number of steps, for more time.  The gradient is the same.

    Raises:
        ValueError: a rate or number of steps below zero, a network without parameters, or one whose normalisation
            layers do not work inside an inner loop.
    """

    def __init__(
        self,
        network: nn.Module,
        inner_lr: float = 0.01,
        inner_steps: int = 1,
        first_order: bool = False,
        loss: Callable[[Tensor, Tensor], Tensor] = task_loss,
        recompute: bool = False,
    ) -> None:
        super().__init__(loss=loss)
        check_inner_loop(network, inner_lr, inner_steps)
        self.network = network
        self.inner_lr, self.inner_steps, self.first_order = inner_lr, inner_steps, first_order
        self.recompute = recompute

    def adapt(self, support: Set) -> Weights:
        """Take `inner_steps` gradient steps on the support loss: the adapted weights, by name."""
        weights = dict(self.network.named_parameters())
        if not self.recompute:
            return self._descend(weights, support, self.inner_steps)
        for _ in range(self.inner_steps):
            weights = recomputed(lambda start, support: self._descend(start, support, 1), weights, support)
        return weights

    def _descend(self, weights: Weights, support: Set, steps: int) -> Weights:
        return descend(
            lambda weights: self.loss(self.predict(weights, support.x), support.y),
            weights,
            self.inner_lr,
            steps,
            self.first_order,
        )

    def predict(self, state: Weights, x: Tensor) -> Tensor:
        """The network with the adapted weights: `(queries, *features) -> (queries, outputs)`."""
        return functional_call(self.network, state, (x,))


# Wrong second derivatives under vmap, without an error; running statistics cannot be updated there at all.
_UNSAFE = (nn.modules.batchnorm._NormBase, nn.LayerNorm)


def check_inner_loop(network: nn.Module, inner_lr: float, inner_steps: int) -> None:
    """Raise `ValueError` unless the network can be adapted exactly inside an inner loop over many tasks."""
    if inner_lr < 0 or inner_steps < 0:
        raise ValueError(f"inner_lr and inner_steps cannot be negative, got {inner_lr} and {inner_steps}")
    if next(network.parameters(), None) is None:
        raise ValueError(f"{type(network).__name__} has no parameters, so there is nothing to adapt")
    for name, module in network.named_modules():
        if isinstance(module, _UNSAFE):
            raise ValueError(
                f"layer {name or 'network'} is {type(module).__name__}, whose second derivatives are wrong under "
                "torch.func.vmap; use metabook.networks.Norm, which is right to every order"
            )
