"""Almost no inner loop: adapt the last layer only, to features that all tasks share.

A. Raghu, M. Raghu, S. Bengio, O. Vinyals, "Rapid Learning or Feature Reuse? Towards Understanding the Effectiveness of
MAML", ICLR 2020.  ANIL splits the start of MAML into features theta and a head w (their section 4); the inner loop
descends in w alone,

    w' = w - alpha * grad_w L_support(theta, w)            repeated
    min over theta and w of  mean over tasks of L_query(theta, w')

so the features of a task are computed once, whatever the number of inner steps.
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
