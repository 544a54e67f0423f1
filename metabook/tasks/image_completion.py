"""Images as functions from the plane to grey values: a task is one image, its support some of its pixels.

Garnelo et al. (ICML 2018), section 4.2, complete images in this way.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metabook.data.dataset import Dataset
from metabook.episode import Episode, Set
from metabook.tasks.distribution import TaskDistribution, check_counts


class ImageCompletion(TaskDistribution):
    """Each task is an image of the data set; support and query are disjoint random pixels.

    An input is the place of a pixel, row and column, in units of half the longer side and counted from the middle:
    all places are multiples of `spacing` between -1 and 1.  A target is the ink, 0 to 1.

    Args:
        dataset: images of one channel.
        shots: observed pixels; a pair `(low, high)` draws a number in this range for every batch.
        queries: pixels to predict; all that were not observed, if None.

    Raises:
        ValueError: counts below one, bounds in the wrong order, more pixels than an image has, several channels.
    """

    def __init__(self, dataset: Dataset, shots: int | tuple[int, int], queries: int | None = None) -> None:
        low, high = (shots, shots) if isinstance(shots, int) else shots
        check_counts(shots=low, queries=1 if queries is None else queries)
        channels, self.height, self.width = dataset.images.shape[1:]
        if channels != 1:
            raise ValueError(f"images of one channel are needed, got {channels}")
        if low > high or high + (1 if queries is None else queries) > self.height * self.width:
            raise ValueError(
                f"an image has {self.height * self.width} pixels and (low, high) shots need low first; "
                f"got shots {shots} and queries {queries}"
            )
        self.dataset, self.shots, self.queries = dataset, shots, queries
        self.device, self.spacing = dataset.images.device, 2 / max(self.height, self.width)

    def __repr__(self) -> str:
        return f"ImageCompletion({self.dataset.name}, shots {self.shots}, queries {self.queries or 'the rest'})"

    def places(self) -> Tensor:
        """The input of every pixel, row by row: `(height * width, 2)`."""
        rows, columns = (torch.arange(n, device=self.device) - n // 2 for n in (self.height, self.width))
        return self.spacing * torch.cartesian_prod(rows, columns).to(torch.get_default_dtype())

    def sample(self, n: int, generator: torch.Generator) -> Episode:
        """Draw `n` images and their pixels: inputs `(n, pixels, 2)`, values `(n, pixels, 1)`."""
        self._check(n, generator)
        shots, pixels = self.shots, self.height * self.width
        if not isinstance(shots, int):  # on the host: the number is a shape
            shots = int(torch.randint(shots[0], shots[1] + 1, (), generator=generator, device=self.device))
        which = torch.randint(len(self.dataset), (n,), generator=generator, device=self.device)
        order = torch.rand((n, pixels), generator=generator, device=self.device).argsort(-1)
        order = order[:, : pixels if self.queries is None else shots + self.queries]
        x = self.places()[order]
        ink = self.dataset.images[which].flatten(1).gather(1, order).to(x)[..., None] / 255
        return Episode(Set(x[:, :shots], ink[:, :shots]), Set(x[:, shots:], ink[:, shots:]))
