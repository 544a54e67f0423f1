"""Labelled images whose classes come in groups: characters of alphabets, letters of scripts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Dataset:
    """A data set that fits in memory, as bytes.

    images: uint8 `(examples, channels, height, width)`; 255 is full ink for characters.
    labels: int64 `(examples,)` in 0..classes-1.
    groups: int64 `(classes,)`, the group of each class (its alphabet or script).
    class_names, group_names: what they are called; their lengths are the numbers of classes and groups.
    name: what the data set is called in a protocol, e.g. "omniglot/evaluation".
    drawers: int64 `(examples,)`, who (or which font style) drew each image, or None.

    Raises:
        ValueError: fields whose dtype, length or range do not fit together, with the values met.
    """

    images: Tensor
    labels: Tensor
    groups: Tensor
    class_names: tuple[str, ...]
    group_names: tuple[str, ...]
    name: str
    drawers: Tensor | None = None

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise ValueError(
                f"images must be uint8 (examples, channels, height, width), got {self.images.dtype} "
                f"{tuple(self.images.shape)}"
            )
        _check_indices("labels", self.labels, len(self.images), "images", len(self.class_names), "class_names")
        _check_indices("groups", self.groups, len(self.class_names), "class_names", len(self.group_names), "group_names")
        if self.drawers is not None and self.drawers.shape != self.labels.shape:
            raise ValueError(f"drawers must have one entry per image: got {len(self.drawers)} for {len(self.images)}")

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def select(self, groups: list[str]) -> Dataset:
        """The classes of the named groups, relabelled 0..classes-1.

        Raises:
            ValueError: a group that does not exist, or none named.
        """
        unknown = [name for name in groups if name not in self.group_names]
        if unknown or not groups:
            raise ValueError(f"no such group in {self.name}: {unknown or 'none named'}; there are {self.group_names}")
        wanted = torch.tensor([self.group_names.index(name) for name in groups])
        return self.select_classes(torch.isin(self.groups, wanted))

    def select_classes(self, mask: Tensor) -> Dataset:
        """The classes where `mask`, bool `(classes,)`, holds, relabelled 0..classes-1; empty groups are dropped."""
        if mask.dtype != torch.bool or mask.shape != (self.classes,) or not mask.any():
            raise ValueError(f"mask must be bool ({self.classes},) with a true entry, got {mask.dtype} {tuple(mask.shape)}")
        rows = mask[self.labels]
        kept, groups = self.groups[mask].unique(return_inverse=True)
        return replace(
            self,
            images=self.images[rows],
            labels=(mask.cumsum(0) - 1)[self.labels[rows]],
            groups=groups,
            class_names=tuple(name for name, keep in zip(self.class_names, mask.tolist(), strict=True) if keep),
            group_names=tuple(self.group_names[g] for g in kept.tolist()),
            drawers=None if self.drawers is None else self.drawers[rows],
        )

    def to(self, device: str | torch.device) -> Dataset:
        """The data set with its tensors on a device."""
        move = {name: getattr(self, name).to(device) for name in ("images", "labels", "groups")}
        return replace(self, **move, drawers=None if self.drawers is None else self.drawers.to(device))

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.images.shape[1:]))
        return f"Dataset({self.name}: {len(self.images)} images {shape}, {self.classes} classes, {len(self.group_names)} groups)"


def _check_indices(name: str, values: Tensor, length: int, of: str, limit: int, names: str) -> None:
    if values.dtype != torch.int64 or values.shape != (length,):
        raise ValueError(f"{name} must be int64 ({length},), one per {of}; got {values.dtype} {tuple(values.shape)}")
    if length and (values.min() < 0 or values.max() >= limit):
        met = f"{int(values.min())} to {int(values.max())}"
        raise ValueError(f"{name} must lie in 0..{limit - 1} for {limit} {names}, met values from {met}")
