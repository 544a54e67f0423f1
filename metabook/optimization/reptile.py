"""Meta-learning without second derivatives: move the start towards where training ends.

A. Nichol, J. Achiam, J. Schulman, "On First-Order Meta-Learning Algorithms", arXiv:1803.02999, 2018.  Reptile trains
the weights on one task for k steps, from the start phi to phi', and moves the start (their algorithm 2, batched):

    phi <- phi + epsilon * mean over tasks of (phi' - phi)

The update is no gradient of a query loss.  It is the gradient of a surrogate in which phi' is a constant,

    0.5 * || phi - phi' ||^2        whose gradient is        phi - phi',

so any optimiser can take it: plain descent with rate epsilon is the update above, serial with one task and batched
with more.  With g_i and H_i the gradient and Hessian of step i's examples, taken at the start (their section 5.1),

    (phi - phi') / alpha = sum over i of g_i  -  alpha * sum over j < i of H_i g_j  +  O(alpha^2).

The first sum is the gradient of pooled training.  The second lets the gradients of different examples of one task
agree, so that learning from some helps on the others; it needs examples that differ from step to step (inner_batch).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from metabook.episode import Episode, Set
from metabook.learner import Learner, task_loss
from metabook.optimization.maml import Weights, check_inner_loop, descend


class Reptile(Learner):
    """A start near the solutions of all tasks; its state is the weights trained on one task.

    Reptile knows no support and query: it trains on every example of a task that the episode holds.  Evaluation adapts
    to the support set and predicts the queries, as always.

    Args:
        network: as in `MAML`.
        inner_lr: inner rate alpha.
        inner_steps: gradient steps k; may be changed between training and evaluation.
        inner_batch: examples per gradient step of training, drawn without replacement until all were seen; all
            examples at every step by default, without what the second sum above is for.
        loss: `(prediction, y) -> scalar`.

    Raises:
        ValueError: as in `MAML`, or a minibatch below one.
    """

    def __init__(
        self,
        network: nn.Module,
        inner_lr: float = 0.01,
        inner_steps: int = 5,
        inner_batch: int | None = None,
        loss: Callable[[Tensor, Tensor], Tensor] = task_loss,
    ) -> None:
        super().__init__(loss=loss)
        check_inner_loop(network, inner_lr, inner_steps)
        if inner_batch is not None and inner_batch < 1:
            raise ValueError(f"inner_batch must be a positive number of examples or None for all, got {inner_batch}")
        self.network = network
        self.inner_lr, self.inner_steps, self.inner_batch = inner_lr, inner_steps, inner_batch

    def adapt(self, support: Set) -> Weights:
        """Weights after `inner_steps` gradient steps on the support loss, by name; constants for autograd."""
        weights = self._start()
        for _ in range(self.inner_steps):
            weights = self._step(weights, support)
        return weights

    def predict(self, state: Weights, x: Tensor) -> Tensor:
        """The network with the trained weights: `(queries, *features) -> (queries, outputs)`."""
        return functional_call(self.network, state, (x,))

    def loss_and_prediction(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """The surrogate, half the squared distance to the trained weights, and what those predict for the queries."""
        minibatches = self._minibatches(episode)
        phi = vmap(self._train)(minibatches)  # by name, (tasks, *shape)
        with torch.no_grad():
            prediction = vmap(self.predict)(phi, episode.query.x)
        squares = [(p - phi[name]).square().sum() for name, p in self.network.named_parameters()]
        return 0.5 * torch.stack(squares).sum() / episode.tasks, prediction

    def _train(self, minibatches: list[Set]) -> Weights:
        weights = self._start()
        for examples in minibatches:
            weights = self._step(weights, examples)
        return weights

    def _start(self) -> Weights:
        return {name: p.detach() for name, p in self.network.named_parameters()}

    def _step(self, weights: Weights, examples: Set) -> Weights:
        def loss(weights: Weights) -> Tensor:
            return self.loss(self.predict(weights, examples.x), examples.y)

        return descend(loss, weights, self.inner_lr, steps=1)

    def _minibatches(self, episode: Episode) -> list[Set]:
        """The examples of each inner step, for all tasks at once: `(tasks, inner_batch, ...)`."""
        every = Set(*(torch.cat(both, dim=1) for both in zip(*episode, strict=True)))
        count = every.x.shape[1]
        if self.inner_batch is None:
            return [every] * self.inner_steps
        if self.inner_batch > count:
            raise ValueError(
                f"inner_batch is {self.inner_batch}, but a task holds {count} examples (support and query together)"
            )
        rounds = -(-self.inner_steps * self.inner_batch // count)  # how often all examples are dealt out
        keys = torch.rand(episode.tasks, rounds, count, device=every.x.device)
        order = keys.argsort(-1).flatten(1)  # (tasks, rounds * examples)
        task = torch.arange(episode.tasks, device=order.device)[:, None]
        steps = order[:, : self.inner_steps * self.inner_batch].split(self.inner_batch, dim=1)
        return [Set(every.x[task, rows], every.y[task, rows]) for rows in steps]
