"""N-way K-shot classification episodes from any labelled images.

O. Vinyals et al., "Matching Networks for One Shot Learning", NeurIPS 2016, section 2: a task is a few classes, a
support set of a few examples of each, and queries of the same classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metabook.data.dataset import Dataset
from metabook.episode import Episode, Set
from metabook.tasks.distribution import TaskDistribution, check_counts


class FewShot(TaskDistribution):
    """Episodes of `ways` classes, `shots` support and `queries` query images of each.

    All images stay on the device as bytes; a batch of episodes is one gather, whatever its size.  Classes within
    a task and images within a class are drawn without replacement, so support and query never share an image.
    Labels 0..ways-1 are dealt to the classes at random.

    Args:
        dataset: images `(examples, channels, height, width)` uint8, labels and groups of classes.
        ways: classes per task (N).
        shots: support images per class (K).
        queries: query images per class.
        within_groups: draw all classes of a task from one group (an alphabet), groups with fewer than `ways`
            classes being left out; each remaining group is equally likely.
        rotations: count each class turned by 0, 90, 180 and 270 degrees as four classes (square images only), as
            Santoro et al. (2016) do to Omniglot.
        device: where the images live and episodes are drawn.

    Raises:
        ValueError: more ways than classes, more shots and queries than images of some class, no group large
            enough, or rotations of images that are not square.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        ways: int,
        shots: int,
        queries: int,
        within_groups: bool = False,
        rotations: bool = False,
        device: str | torch.device = "cpu",
    ) -> None:
        check_counts(ways=ways, shots=shots, queries=queries)
        self.ways, self.shots, self.queries = ways, shots, queries
        self.within_groups, self.rotations = within_groups, rotations
        self.name, self.device = dataset.name, torch.device(device)
        turns = 4 if rotations else 1
        counts = torch.bincount(dataset.labels.cpu(), minlength=dataset.classes)
        if ways > turns * dataset.classes:
            raise ValueError(f"{ways} ways need as many classes, but {dataset.name} has {turns * dataset.classes}")
        if shots + queries > counts.min():
            raise ValueError(
                f"{shots} shots and {queries} queries need {shots + queries} images of each class, but class "
                f"{int(counts.argmin())} of {dataset.name} has {int(counts.min())}"
            )
        height, width = dataset.images.shape[-2:]
        if rotations and height != width:
            raise ValueError(f"rotations need square images, got {height}x{width} pixels")
        self.images = dataset.images.to(self.device).flatten(1)  # (examples, channels * pixels)
        self.shape = tuple(dataset.images.shape[1:])
        self.members = _members(dataset.labels.cpu(), counts).to(self.device)  # (classes, most images), -1 pads
        groups = dataset.groups.cpu().repeat_interleave(turns)  # class c turned r times is number 4c + r
        self.allowed = _allowed(groups, ways).to(self.device) if within_groups else None  # (groups, classes)
        self.classes = len(groups)
        self.labels = [torch.arange(ways, device=self.device).repeat_interleave(k) for k in (shots, queries)]
        pixels = torch.arange(self.images.shape[1]).view(self.shape)
        self.pixels = torch.stack([pixels.rot90(r, (-2, -1)).flatten() for r in range(turns)]).to(self.device)

    def __repr__(self) -> str:
        """The protocol of a score."""
        scope = "within one group" if self.within_groups else "across groups"
        turned = "with rotations as classes" if self.rotations else "no rotations"
        counts = f"{self.ways}-way {self.shots}-shot, {self.queries} queries per class"
        return f"FewShot({counts}, {self.name}, {self.classes} classes {scope}, {turned})"

    def sample(self, n: int, generator: torch.Generator) -> Episode:
        """Draw `n` tasks: images `(n, ways * shots, channels, height, width)` in 0..1, labels `(n, ways * shots)`.

        Within a set, examples are ordered by class.
        """
        self._check(n, generator)
        classes = self._classes(n, generator)  # (n, ways)
        examples, turn = self._examples(classes, generator)  # (n, ways, shots + queries), (n, ways)
        images = self.images[examples]  # (n, ways, shots + queries, channels * pixels) bytes
        if self.rotations:
            images = images.gather(3, self.pixels[turn][:, :, None].expand(images.shape))
        sets = images.split([self.shots, self.queries], dim=2)
        return Episode(*(self._set(*part) for part in zip(sets, self.labels, strict=True)))

    def _classes(self, n: int, generator: torch.Generator) -> Tensor:
        keys = torch.rand((n, self.classes), generator=generator, device=self.device)
        if self.allowed is not None:
            group = torch.randint(len(self.allowed), (n,), generator=generator, device=self.device)
            keys = torch.where(self.allowed[group], keys, -1.0)
        return keys.topk(self.ways).indices  # the classes of the largest random keys: drawn without replacement

    def _examples(self, classes: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        base, turn = (classes // 4, classes % 4) if self.rotations else (classes, torch.zeros_like(classes))
        members = self.members[base]  # (n, ways, most images)
        keys = torch.rand(members.shape, generator=generator, device=self.device)
        chosen = torch.where(members >= 0, keys, -1.0).topk(self.shots + self.queries).indices
        return members.gather(2, chosen), turn

    def _set(self, images: Tensor, labels: Tensor) -> Set:
        n = len(images)
        return Set((images / 255).view(n, len(labels), *self.shape), labels.expand(n, -1))


def _members(labels: Tensor, counts: Tensor) -> Tensor:
    """Indices of the images of each class, `(classes, most images)`, padded with -1."""
    order = labels.argsort(stable=True)
    position = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels[order]]
    members = torch.full((len(counts), int(counts.max())), -1)
    members[labels[order], position] = order
    return members


def _allowed(groups: Tensor, ways: int) -> Tensor:
    """Which classes belong to each group that has at least `ways` of them, bool `(groups, classes)`."""
    allowed = groups == torch.arange(int(groups.max()) + 1)[:, None]
    large = allowed.sum(1) >= ways
    if not large.any():
        raise ValueError(f"{ways} ways within one group: the largest group has {int(allowed.sum(1).max())} classes")
    return allowed[large]
