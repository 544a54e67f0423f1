"""Labelled images whose classes belong to groups, as characters belong to alphabets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Images, the class of each image, and the group of each class.

    Attributes:
        images: uint8 `(examples, channels, height, width)`, 0 = paper, 255 = full ink.
        labels: int64 `(examples,)`, the class of each image, 0..classes-1.
        groups: int64 `(classes,)`, the alphabet or script of each class, 0..len(group_names)-1.
        class_names: a name for each class.
        group_names: a name for each group.
        name: what to call the data set in figures and errors.
        drawers: int64 `(examples,)`, who drew each image (0 or more), or None where that is unknown.

    Raises:
        ValueError: wrong types, lengths that do not agree, labels or groups out of range, tensors on
            different devices.
    """

    images: Tensor
    labels: Tensor
    groups: Tensor
    class_names: tuple[str, ...]
    group_names: tuple[str, ...]
    name: str
    drawers: Tensor | None = None

    def __post_init__(self) -> None:
        """Refuse fields that contradict each other."""
        if not isinstance(self.images, Tensor) or self.images.ndim != 4 or self.images.dtype != torch.uint8:
            raise ValueError(
                f"images must be a uint8 tensor (examples, channels, height, width), got {_describe(self.images)}"
            )
        if 0 in self.images.shape:
            raise ValueError(f"a data set needs at least one pixel, got images of shape {tuple(self.images.shape)}")
        examples, classes, groups = len(self.images), len(self.class_names), len(self.group_names)
        self._check("labels", examples, "image", classes, "class names")
        self._check("groups", classes, "class", groups, "group names")
        if self.drawers is not None:
            self._check("drawers", examples, "image", None, "")

    def __repr__(self) -> str:
        """Name and counts, never the pixels."""
        examples, channels, height, width = self.images.shape
        return (
            f"Dataset({self.name}: {examples:,} images {channels}x{height}x{width}, {self.classes:,} classes, "
            f"{len(self.group_names)} groups)"
        )

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def to(self, device: str | torch.device) -> Dataset:
        """The same data set with all its tensors on `device`."""
        moved = {field: getattr(self, field).to(device) for field in ("images", "labels", "groups")}
        return replace(self, **moved, drawers=None if self.drawers is None else self.drawers.to(device))

    def select(self, groups: str | int | Sequence[str] | Sequence[int], name: str | None = None) -> Dataset:
        """Only the classes of some groups, relabelled 0..k-1 in their present order.

        Args:
            groups: names or numbers of groups.
            name: a name for the result; this data set's own by default.

        Raises:
            ValueError: a group that does not exist, or none at all.
        """
        wanted = [groups] if isinstance(groups, (str, int)) else list(groups)
        numbers = [self.group_names.index(g) if g in self.group_names else g for g in wanted]
        unknown = [g for g in numbers if not isinstance(g, int) or not 0 <= g < len(self.group_names)]
        if unknown or not wanted:
            asked = f"there is no group {unknown[0]!r}" if unknown else "no group was named"
            raise ValueError(f"{asked}; {self.name} has the groups {', '.join(self.group_names)}")
        chosen = torch.tensor(numbers, device=self.groups.device)
        return self.select_classes(torch.isin(self.groups, chosen), name)

    def select_classes(self, mask: Tensor, name: str | None = None) -> Dataset:
        """Only the classes where `mask` is true, relabelled 0..k-1; groups left without a class are dropped.

        Args:
            mask: bool `(classes,)`.
            name: a name for the result; this data set's own by default.

        Raises:
            ValueError: another shape or type, or no class or image left.
        """
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != (self.classes,):
            raise ValueError(f"mask must be bool of shape ({self.classes},), got {_describe(mask)}")
        mask = mask.to(self.labels.device)
        keep = mask[self.labels]  # (examples,)
        if not keep.any():
            raise ValueError(f"no image of {self.name} is left: the mask selects {int(mask.sum())} classes")
        present, groups = self.groups[mask].unique(return_inverse=True)  # sorted, so the order of groups stays
        new = mask.cumsum(0) - 1  # (classes,) the new number of each class that stays
        names = zip(self.class_names, mask.tolist(), strict=True)
        return Dataset(
            images=self.images[keep],
            labels=new[self.labels[keep]],
            groups=groups,
            class_names=tuple(label for label, kept in names if kept),
            group_names=tuple(self.group_names[g] for g in present.tolist()),
            name=name or self.name,
            drawers=None if self.drawers is None else self.drawers[keep],
        )

    def _check(self, field: str, length: int, per: str, count: int | None, names: str) -> None:
        value = getattr(self, field)
        if not isinstance(value, Tensor) or value.dtype != torch.int64 or value.shape != (length,):
            raise ValueError(f"{field} must be int64 of shape ({length},), one per {per}, got {_describe(value)}")
        if value.device != self.images.device:
            raise ValueError(f"{field} on {value.device} but images on {self.images.device}; move both to one device")
        low, high = (int(value.min()), int(value.max())) if length else (0, -1)
        if low < 0 or (count is not None and high >= count):
            expected = "be 0 or more" if count is None else f"lie in 0..{count - 1}, there being {count} {names}"
            raise ValueError(f"{field} must {expected}, got values from {low} to {high}")


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    return type(value).__name__
