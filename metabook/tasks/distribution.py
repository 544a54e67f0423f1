"""Where episodes come from."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from metabook.episode import Episode


class TaskDistribution(ABC):
    """A distribution over tasks.  Everything is sampled on `device`, from an explicit generator."""

    device: torch.device

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator) -> Episode:
        """Draw a batch of `n` tasks as one episode, task dimension first.

        The same generator state gives the same episode.

        Raises:
            ValueError: `n` below one, or a generator of another device.
        """

    def generator(self, seed: int) -> torch.Generator:
        """A generator for this distribution's device."""
        return torch.Generator(self.device).manual_seed(seed)

    def _check(self, n: int, generator: torch.Generator) -> None:
        if n < 1:
            raise ValueError(f"sample needs at least one task, got n={n}")
        if generator.device.type != self.device.type:
            raise ValueError(
                f"the generator lives on {generator.device} but the tasks on {self.device}; "
                "make it with tasks.generator(seed)"
            )


def check_counts(**counts: int) -> None:
    """Raise `ValueError` unless every named count is a positive integer."""
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
