"""Train a classifier of handwritten digits at full length and test it: `python experiments/mnist.py convolutional`.

The last 5,000 of the 60,000 training images are kept for validation, whose accuracy is noted after each epoch; the
10,000 test images are looked at once, at the end.  The result is a JSON file with the training, the seed, the device,
the time, the versions and the answer to every test image.  A minute or a few on one CPU core.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from metabook.basics.handwritten_digits import convolutional_network, dense_network, fit, predict
from metabook.data import Dataset, load_mnist
from metabook.full_scale import DigitRun
from metabook.full_scale.machine import describe_machine
from metabook.full_scale.runs import FOLDER

VALIDATION = 5000


class Setting(NamedTuple):
    """A network and how it is trained; `epochs` can be changed by the command."""

    network: Callable[[], nn.Module]
    epochs: int
    options: dict


SETTINGS = {
    "dense": Setting(dense_network, 10, {"batch": 128, "lr": 3e-3}),  # ten epochs, as in the sources
    "convolutional": Setting(convolutional_network, 12, {"batch": 64, "lr": 2e-3, "shift": 2}),
}


def part(dataset: Dataset, rows: slice) -> Dataset:
    """Some of the images."""
    return replace(dataset, images=dataset.images[rows], labels=dataset.labels[rows])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=SETTINGS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="by default those of the setting")
    parser.add_argument("--images", type=int, default=60000 - VALIDATION, help="training images")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the result")
    options = parser.parse_args(arguments)
    setting = SETTINGS[options.network]
    epochs, images = options.epochs or setting.epochs, load_mnist("train")
    torch.manual_seed(options.seed)
    network = setting.network().to(options.device)
    train, validation = part(images, slice(options.images)), part(images, slice(-VALIDATION, None))
    begin = time.perf_counter()
    done = fit(network, train, epochs=epochs, validation=validation, seed=options.seed, **setting.options)
    seconds = time.perf_counter() - begin
    test = load_mnist("test")
    right = predict(network, test.images).argmax(-1).cpu() == test.labels
    training = {
        "images": len(train), "validation": VALIDATION, "epochs": epochs, **setting.options, "schedule": "cosine",
        "parameters": sum(p.numel() for p in network.parameters()),
    }  # fmt: skip
    command = shlex.join(["python", "experiments/mnist.py", *(sys.argv[1:] if arguments is None else arguments)])
    run = DigitRun(
        options.network, training, options.seed, round(seconds, 1), describe_machine(options.device), command,
        done.validation, "".join("01"[answer] for answer in right.int().tolist()),
    )  # fmt: skip
    run.write(options.out / f"mnist-{options.network}-seed{options.seed}.json")
    print(f"{options.network}: {100 * run.accuracy:.2f} ± {100 * run.ci95:.2f} % of the test images", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
