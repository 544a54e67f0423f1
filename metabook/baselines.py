"""What a meta-learner has to beat: learning from scratch, pooled pre-training, and the nearest neighbour in pixels."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from metabook.data.dataset import Dataset
from metabook.episode import Episode, Set
from metabook.learner import Learner, task_loss
from metabook.metric.matching_networks import cosines
from metabook.metric.prototypical_networks import squared_distances
from metabook.optimization.maml import Weights, check_inner_loop, descend
from metabook.progress import progress_bar
from metabook.tasks.distribution import check_counts


class FineTuning(Learner):
    """Gradient descent on the support set, from weights that were not trained to be adapted.

    Fresh from its constructor it is learning *from scratch*: every task starts at the same random weights.
    After `meta_train` it is *pooled and fine-tuned*: its training loss is the loss of one network on the examples
    of all tasks together.

    Args:
        network: `(examples, *features) -> (examples, outputs)`.
        inner_lr: rate of the gradient steps.
        inner_steps: number of gradient steps.
        loss: `(prediction, y) -> scalar`.
    """

    def __init__(
        self,
        network: nn.Module,
        inner_lr: float = 0.01,
        inner_steps: int = 1,
        loss: Callable[[Tensor, Tensor], Tensor] = task_loss,
    ) -> None:
        super().__init__(loss=loss)
        check_inner_loop(network, inner_lr, inner_steps)
        self.network = network
        self.inner_lr, self.inner_steps = inner_lr, inner_steps

    def adapt(self, support: Set) -> Weights:
        """Weights after `inner_steps` steps on the support loss, by name."""
        return descend(
            lambda weights: self.loss(self.predict(weights, support.x), support.y),
            dict(self.network.named_parameters()),
            self.inner_lr,
            self.inner_steps,
            first_order=True,
        )

    def predict(self, state: Weights, x: Tensor) -> Tensor:
        """The network with the adapted weights."""
        return functional_call(self.network, state, (x,))

    def loss_and_prediction(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """Pooled loss: one network, all examples of all tasks, no adaptation."""
        x = torch.cat([episode.support.x, episode.query.x], dim=1)  # (tasks, examples, *features)
        y = torch.cat([episode.support.y, episode.query.y], dim=1)
        prediction = self.network(x.flatten(0, 1)).unflatten(0, y.shape[:2])
        return self.loss(prediction, y), prediction[:, episode.support.x.shape[1] :]


class NearestNeighbour(Learner):
    """The class of the closest support image, pixel by pixel: no learning at all.

    Args:
        ways: the most classes an episode may have.
    """

    def __init__(self, ways: int) -> None:
        super().__init__(ways)

    def adapt(self, support: Set) -> Set:
        """The support set itself."""
        return support

    def predict(self, state: Set, x: Tensor) -> Tensor:
        """Logits: minus the squared distance to the nearest support example of each class, `(queries, ways)`."""
        distances = squared_distances(x.flatten(1), state.x.flatten(1))  # (queries, examples), as one matrix product
        other = state.y != torch.arange(self.ways, device=x.device)[:, None]  # (ways, examples)
        return -distances[:, None].masked_fill(other, torch.inf).amin(-1)


def pretrain_classifier(
    encoder: nn.Module,
    dataset: Dataset,
    *,
    steps: int,
    batch: int = 128,
    lr: float = 1e-3,
    schedule: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler] | None = None,
    cosine_scale: float | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> list[float]:
    """Train an encoder, in place, to tell all classes of a data set apart with a head that is thrown away.

    This is transfer learning without episodes: afterwards a `PrototypicalNetwork` around the encoder classifies new
    classes by the nearest class mean (Chen et al., 2019, find it a strong baseline).

    Args:
        encoder: `(n, *features) -> (n, d)`.
        dataset: images and labels.
        steps: minibatches of Adam.
        batch: images per minibatch.
        lr: rate of Adam.
        schedule: makes a scheduler for the optimiser, stepped once per minibatch.
        cosine_scale: None for a linear head.  A number makes the logits that many times the cosine of feature and
            class weight: the head of Baseline++ (Chen et al., 2019).
        seed: of the head and the minibatches.
        progress: as in `meta_train`.

    Returns:
        The training loss at each step.

    Raises:
        ValueError: counts below one, or a scale that is not positive and finite.
    """
    check_counts(steps=steps, batch=batch)
    if cosine_scale is not None and not 0 < cosine_scale < math.inf:
        raise ValueError(f"cosine_scale must be positive and finite, or None, got {cosine_scale}")
    device = next(encoder.parameters()).device
    images, labels = dataset.images.to(device), dataset.labels.to(device)
    generator = torch.Generator(device).manual_seed(seed)
    features = encoder(images[:2].float() / 255).shape[1]
    head = nn.Linear(features, dataset.classes, device=device)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.uniform_(-(features**-0.5), features**-0.5, generator=generator)
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=lr)
    scheduler = schedule(optimizer) if schedule else None
    encoder.train()
    losses = []
    with progress_bar(steps, progress, unit="step") as bar:
        for _ in range(steps):
            rows = torch.randint(len(labels), (batch,), generator=generator, device=device)
            z = encoder(images[rows].float() / 255)
            logits = head(z) if cosine_scale is None else cosine_scale * cosines(z, head.weight)
            loss = F.cross_entropy(logits, labels[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if scheduler:
                scheduler.step()
            losses.append(loss.detach())
            bar.update()
    return torch.stack(losses).tolist()
