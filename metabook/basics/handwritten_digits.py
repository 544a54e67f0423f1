"""A real classifier: two networks for images, minibatches in epochs, and what keeps a network from learning by heart.

*Dropout.*  N. Srivastava, G. Hinton, A. Krizhevsky, I. Sutskever, R. Salakhutdinov, "Dropout: A Simple Way to Prevent
Neural Networks from Overfitting", JMLR 15 (2014) 1929-1958.  In training every unit is set to zero with probability p,
and the others are divided by 1 - p (the paper multiplies by 1 - p at the test instead), so that the mean is kept:

    h_j  ->  m_j h_j / (1 - p)          m_j = 0 with probability p, else 1

*Convolution.*  Y. LeCun et al., "Backpropagation Applied to Handwritten Zip Code Recognition", Neural Computation 1
(1989) 541-551.  One small set of weights looks at every place of the image,

    y[o, i, j] = b[o] + sum over c, u, v of  w[o, c, u, v] x[c, i + u, j + v].

*Weight decay* adds a multiple of the squared weights to the loss; decoupled from the gradient's scale it is a step of
its own (I. Loshchilov, F. Hutter, "Decoupled Weight Decay Regularization", ICLR 2019): `torch.optim.AdamW`.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabook.data.dataset import Dataset
from metabook.progress import progress_bar
from metabook.tasks.distribution import check_counts


class Dropout(nn.Module):
    """Set each number to zero with probability `p` in training, and scale the others up; do nothing in evaluation.

    Args:
        p: 0 <= p < 1.
        generator: of the masks; torch's own by default.

    Raises:
        ValueError: a probability outside 0 <= p < 1.
    """

    def __init__(self, p: float, generator: torch.Generator | None = None) -> None:
        if not 0 <= p < 1:
            raise ValueError(f"a unit is dropped with a probability in 0 <= p < 1, got {p}")
        super().__init__()
        self.p, self.generator = p, generator

    def forward(self, h: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return h
        kept = torch.rand(h.shape, generator=self.generator, device=h.device) >= self.p
        return h * kept / (1 - self.p)


def dense_network(hidden: int = 128, p: float = 0.2, size: int = 28) -> nn.Sequential:
    """The network of the sources: 784 - 128 - ReLU - dropout 0.2 - 10, without the softmax, which is in the loss.

    Args:
        hidden: units of the one hidden layer.
        p: probability of dropout.
        size: height and width of the images in pixels.

    Returns:
        A network `(n, 1, size, size) -> (n, 10)` logits.
    """
    check_counts(hidden=hidden, size=size)
    return nn.Sequential(nn.Flatten(), nn.Linear(size * size, hidden), nn.ReLU(), Dropout(p), nn.Linear(hidden, 10))


def convolutional_network(channels: tuple[int, int] = (16, 32), hidden: int = 128, p: float = 0.2) -> nn.Sequential:
    """Two 3x3 convolutions, each with ReLU and 2x2 max-pooling, then the layers of `dense_network`.

    The pooling stands before the ReLU: the largest of four stays the largest, and a quarter is left to be rectified.

    Args:
        channels: of the two convolutions.
        hidden: units of the dense layer.
        p: probability of dropout before the last layer.

    Returns:
        A network `(n, 1, 28, 28) -> (n, 10)` logits.
    """
    first, second = channels
    check_counts(first=first, second=second, hidden=hidden)
    return nn.Sequential(
        nn.Conv2d(1, first, 3, padding=1),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(first, second, 3, padding=1),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(second * 7 * 7, hidden),
        nn.ReLU(),
        Dropout(p),
        nn.Linear(hidden, 10),
    )


def shifted(images: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Move each image by up to `most` pixels in both directions, each on its own; paper comes in at the edge.

    Args:
        images: `(n, channels, height, width)`.
        most: at least 0, less than half a side.
        generator: on the device of the images.

    Raises:
        ValueError: `most` is negative or would move an image out of its frame.
    """
    n, _, height, width = images.shape
    if not 0 <= most < min(height, width) / 2:
        raise ValueError(f"images of {height}x{width} can be moved by less than half a side, got {most} pixels")
    by = torch.randint(-most, most + 1, (2, n, 1), generator=generator, device=images.device)
    rows = torch.arange(height, device=images.device) + most + by[0]  # (n, height), in the padded image
    columns = torch.arange(width, device=images.device) + most + by[1]
    padded = F.pad(images, (most,) * 4)
    examples = torch.arange(n, device=images.device)[:, None, None]
    return padded[examples, :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


class Epochs(NamedTuple):
    """What a training was like, epoch by epoch."""

    loss: list[float]  # mean loss of the minibatches
    accuracy: list[float]  # of the minibatches, as they were when they were trained on
    validation: list[float]  # accuracy on the validation set after the epoch; empty without one


def fit(
    network: nn.Module,
    train: Dataset,
    *,
    epochs: int,
    validation: Dataset | None = None,
    batch: int = 128,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    shift: int = 0,
    label_smoothing: float = 0.0,
    keep_best: bool = False,
    seed: int = 0,
    progress: bool | None = None,
) -> Epochs:
    """Train a classifier, in place, with Adam on minibatches; each epoch sees every image once, in a new order.

    Args:
        network: `(n, channels, height, width)` with ink in 0..1 -> logits `(n, classes)`.
        train: images and labels.
        epochs: passes over the training set.
        validation: scored after each epoch.
        batch: images of a minibatch; the last of an epoch may be smaller.
        lr: rate of Adam, which a half cosine brings to zero over the whole training.
        weight_decay: decoupled, as a multiple of the rate.
        shift: images are moved by up to so many pixels, anew each time.
        label_smoothing: share of each label that is spread over all classes.
        keep_best: give the network the weights of its best epoch on the validation set at the end (early stopping).
        seed: of order and shifts.
        progress: as in `meta_train`.

    Returns:
        Loss and accuracies of each epoch.

    Raises:
        ValueError: counts below one, or `keep_best` without a validation set.
    """
    check_counts(epochs=epochs, batch=batch)
    if keep_best and validation is None:
        raise ValueError("keep_best chooses by the accuracy on a validation set: give validation=")
    device = next(network.parameters()).device
    train = train.to(device)
    generator = torch.Generator(device).manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=weight_decay)
    steps = epochs * -(-len(train) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    done, best = Epochs([], [], []), None
    with progress_bar(steps, progress, unit="step") as bar:
        for _ in range(epochs):
            network.train()
            losses, right = [], []
            for rows in torch.randperm(len(train), generator=generator, device=device).split(batch):
                x, y = train.images[rows].float() / 255, train.labels[rows]
                logits = network(shifted(x, shift, generator) if shift else x)
                loss = F.cross_entropy(logits, y, label_smoothing=label_smoothing)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(loss.detach() * len(y))
                right.append((logits.detach().argmax(-1) == y).sum())
                bar.update()
            done.loss.append((torch.stack(losses).sum() / len(train)).item())
            done.accuracy.append((torch.stack(right).sum() / len(train)).item())
            if validation is not None:
                done.validation.append(accuracy(network, validation))
                if keep_best and done.validation[-1] == max(done.validation):
                    best = copy.deepcopy(network.state_dict())
    if best is not None:
        network.load_state_dict(best)
    return done


@torch.no_grad()
def predict(network: nn.Module, images: Tensor, batch: int = 1000) -> Tensor:
    """Logits of a network in evaluation mode, `(n, classes)`, for uint8 images `(n, channels, height, width)`."""
    device, mode = next(network.parameters()).device, network.training
    network.eval()
    logits = torch.cat([network(part.to(device).float() / 255) for part in images.split(batch)])
    network.train(mode)
    return logits


def accuracy(network: nn.Module, dataset: Dataset) -> float:
    """Share of the images that a network names rightly."""
    logits = predict(network, dataset.images)
    return (logits.argmax(-1) == dataset.labels.to(logits.device)).double().mean().item()


def confusion(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """How often each class (row) was given each name (column): int64 `(classes, classes)`, from two `(n,)` of int64.

    Raises:
        ValueError: the two differ in shape.
    """
    if predictions.shape != labels.shape:
        raise ValueError(f"predictions {tuple(predictions.shape)} and labels {tuple(labels.shape)} differ in shape")
    return torch.bincount(labels * classes + predictions, minlength=classes * classes).view(classes, classes)
