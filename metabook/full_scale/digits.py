"""The files that `experiments/mnist.py` writes: one for each network and seed, with the answer to every test image."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from metabook.data.store import write_atomically
from metabook.full_scale.runs import FOLDER


@dataclass(frozen=True)
class DigitRun:
    """One classifier, trained on MNIST and tested once.

    Attributes:
        network: e.g. "dense".
        training: the numbers that make the run what it is: images, epochs, batch, lr, shift and so on.
        seed: of the initial weights, the order of the images and their shifts.
        seconds: spent in training.
        machine: device, threads and versions.
        command: what made it.
        validation: accuracy on the validation images after each epoch.
        right: `"1"` right or `"0"` wrong for each of the 10,000 test images, in their official order.
    """

    network: str
    training: dict
    seed: int
    seconds: float
    machine: dict
    command: str
    validation: list[float]
    right: str

    @property
    def accuracy(self) -> float:
        """Share of the test images that were named rightly."""
        return self.right.count("1") / len(self.right)

    @property
    def ci95(self) -> float:
        """Half-width of the 95 % interval of the accuracy over test images (normal approximation)."""
        return 1.96 * math.sqrt(self.accuracy * (1 - self.accuracy) / len(self.right))

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        text = json.dumps(asdict(self), indent=1)
        write_atomically(path, lambda part: part.write_text(text + "\n", encoding="utf-8"))

    @classmethod
    def read(cls, path: Path) -> DigitRun:
        """Read a file that `write` made.

        Raises:
            ValueError: it is not such a file.
        """
        try:
            run = cls(**json.loads(path.read_text(encoding="utf-8")))
            if set(run.right) - {"0", "1"} or not run.right:
                raise ValueError("answers are not all 0 or 1")
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is not the result of a run of experiments/mnist.py: {error}") from error
        return run


def load_digit_runs(folder: Path = FOLDER) -> list[DigitRun]:
    """All runs on MNIST in a folder, by default those that come with the library, in the order of their file names."""
    return [DigitRun.read(path) for path in sorted(folder.glob("mnist-*.json"))]
