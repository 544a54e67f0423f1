from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Dataset:
    images: Tensor
    labels: Tensor
    groups: Tensor
    class_names: tuple[str, ...]
    group_names: tuple[str, ...]
    name: str
    drawers: Tensor | None = None
    @property
    def classes(self) -> int:
        return len(self.groups)
