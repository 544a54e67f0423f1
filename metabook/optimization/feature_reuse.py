"""Which part of a network should the inner loop move: its last layer, or all but the last?  And what did move?

A. Raghu, M. Raghu, S. Bengio, O. Vinyals, "Rapid Learning or Feature Reuse? Towards Understanding the Effectiveness of
MAML", ICLR 2020.  They split the start of MAML into features theta and a head w.  ANIL, "almost no inner loop",
descends in the head alone, so that the features of a task are computed once whatever the number of inner steps:

    w' = w - alpha * grad_w L_support(theta, w)            repeated
    min over theta and w of  mean over tasks of L_query(theta, w')

J. Oh, H. Yoo, C. Kim, S.-Y. Yun, "BOIL: Towards Representation Change for Few-shot Learning", ICLR 2021.  BOIL, "body
only update in inner loop", descends in the features and leaves the head where it starts; the outer loop learns both:

    theta' = theta - alpha * grad_theta L_support(theta, w)    repeated
    min over theta and w of  mean over tasks of L_query(theta', w)

S. Kornblith, M. Norouzi, H. Lee, G. Hinton, "Similarity of Neural Network Representations Revisited", ICML 2019, give
the measure of what moved, linear centred kernel alignment.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.func import functional_call

from metabook.episode import Set
from metabook.learner import Learner, task_loss
from metabook.optimization.maml import Weights, check_inner_loop, descend


class ANIL(Learner):
    """Shared features and the start of a head; its state is the head's weights, adapted to one task.

    Args:
        features: maps one task's examples to features, `(examples, *inputs) -> (examples, d)`; not adapted.
        head: maps features to outputs, `(examples, d) -> (examples, outputs)`.  All its parameters are adapted.
        inner_lr: inner rate alpha.
        inner_steps: gradient steps on the support set; may be changed between training and evaluation.
        first_order: drop the second derivatives.
        loss: `(prediction, y) -> scalar` of the inner and the outer loop.

    Raises:
        ValueError: a rate or number of steps below zero, a head without parameters, or one whose normalisation
            layers do not work inside an inner loop.
    """

    def __init__(
        self,
        features: nn.Module,
        head: nn.Module,
        inner_lr: float = 0.01,
        inner_steps: int = 1,
        first_order: bool = False,
        loss: Callable[[Tensor, Tensor], Tensor] = task_loss,
    ) -> None:
        super().__init__(loss=loss)
        check_inner_loop(head, inner_lr, inner_steps)
        self.features, self.head = features, head
        self.inner_lr, self.inner_steps, self.first_order = inner_lr, inner_steps, first_order

    def adapt(self, support: Set) -> Weights:
        """Take `inner_steps` gradient steps on the support loss in the head alone: its weights, by name."""
        features = self.features(support.x)  # (examples, d)
        return descend(
            lambda weights: self.loss(functional_call(self.head, weights, (features,)), support.y),
            dict(self.head.named_parameters()),
            self.inner_lr,
            self.inner_steps,
            self.first_order,
        )

    def predict(self, state: Weights, x: Tensor) -> Tensor:
        """The adapted head on the shared features: `(queries, *inputs) -> (queries, outputs)`."""
        return functional_call(self.head, state, (self.features(x),))


class BOIL(Learner):
    """The start of the features and a shared head; its state is the features' weights, adapted to one task.

    Args:
        features: maps one task's examples to features, `(examples, *inputs) -> (examples, d)`.  All its parameters
            are adapted.
        head: maps features to outputs, `(examples, d) -> (examples, outputs)`; not adapted.
        inner_lr, inner_steps, first_order, loss: as in `ANIL`.

    Raises:
        ValueError: a rate or number of steps below zero, features without parameters, or with normalisation layers
            that do not work inside an inner loop.
    """

    def __init__(
        self,
        features: nn.Module,
        head: nn.Module,
        inner_lr: float = 0.01,
        inner_steps: int = 1,
        first_order: bool = False,
        loss: Callable[[Tensor, Tensor], Tensor] = task_loss,
    ) -> None:
        super().__init__(loss=loss)
        check_inner_loop(features, inner_lr, inner_steps)
        self.features, self.head = features, head
        self.inner_lr, self.inner_steps, self.first_order = inner_lr, inner_steps, first_order

    def adapt(self, support: Set) -> Weights:
        """Take `inner_steps` gradient steps on the support loss in all but the head: the features' weights, by name."""
        return descend(
            lambda weights: self.loss(self.predict(weights, support.x), support.y),
            dict(self.features.named_parameters()),
            self.inner_lr,
            self.inner_steps,
            self.first_order,
        )

    def predict(self, state: Weights, x: Tensor) -> Tensor:
        """The shared head on the adapted features: `(queries, *inputs) -> (queries, outputs)`."""
        return self.head(functional_call(self.features, state, (x,)))


def activations(network: nn.Sequential, x: Tensor, weights: Weights | None = None) -> dict[str, Tensor]:
    """What every layer of a sequential network answers to the same examples, each flattened to a matrix.

    Args:
        network: its children are the layers.
        x: `(examples, *inputs)`.
        weights: adapted weights by their names in the network; those left out keep the network's own values.

    Returns:
        By the child's name, from input to output, `(examples, d)`.
    """
    answers: dict[str, Tensor] = {}
    for name, layer in network.named_children():
        of_layer = {key.removeprefix(f"{name}."): w for key, w in (weights or {}).items() if key.startswith(f"{name}.")}
        x = functional_call(layer, of_layer, (x,))
        answers[name] = x.flatten(1)
    return answers


def cka(a: Tensor, b: Tensor) -> Tensor:
    """Linear centred kernel alignment of two representations of the same examples, a scalar in 0..1.

    Centre the columns of both, and compare which pairs of examples each holds to be alike, with K = A A' and L = B B':

        cka(A, B) = <K, L> / (||K|| ||L||) = ||A' B||^2 / (||A' A|| ||B' B||)

    in the Frobenius norm (Kornblith et al., 2019, section 3).  It is 1 where B is A, turned by an orthogonal map and
    scaled; which unit is which does not count.  Where features outnumber examples, unrelated representations look
    alike: use many examples.

    Args:
        a, b: activations `(examples, d)`; d may differ.  The memory is that of `(examples, examples)`.

    Raises:
        ValueError: not two matrices with the same number of examples, at least two.
    """
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b) or len(a) < 2:
        raise ValueError(
            "cka compares two matrices (examples, d) of the same examples, at least two; "
            f"got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    a, b = (z - z.mean(0) for z in (a, b))
    kernel_a, kernel_b = a @ a.mT, b @ b.mT  # (examples, examples)
    return (kernel_a * kernel_b).sum() / (kernel_a.norm() * kernel_b.norm())
