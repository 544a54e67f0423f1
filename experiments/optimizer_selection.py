"""Make the table of the chapter on optimiser selection: `python experiments/optimizer_selection.py`.

On each of the 69 sets of PMLB, and on scikit-learn's digits, a network with 32 hidden units is trained by SGD,
momentum, RMSProp and Adam at seven rates each; two folds hold out different quarters of the rows, and eight seeds
split the rest, draw the start and the minibatches.  At most 2,000 rows of a set are used.  About five minutes on one
core; a run that was stopped goes on where it was, task by task.  `--folds 2 3 --out FOLDER` repeats the measurement
with the other two quarters.

Two files are written, beside the module or into another folder: `optimizer_selection.csv`, the measured losses and
errors, and `optimizer_selection.json`, the protocol, the versions, the device, and the meta-features of every task.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

import metabook
from metabook.data import load_digits, store
from metabook.data.pmlb import load_pmlb, pmlb_index
from metabook.optimization import optimizer_selection as selection
from metabook.tasks import tables

SEEDS = 8
DIGITS = "digits"


def load(name: str) -> tuple[Tensor, Tensor]:
    """Rows and classes of a task."""
    if name == DIGITS:
        digits = load_digits()
        return digits.images.flatten(1).float(), digits.labels
    table = load_pmlb(name)
    return table.x, table.y


def measure(name: str, folds: Sequence[int], device: str) -> dict[str, Tensor | list[dict[str, float]]]:
    """All runs of one task: losses relative to the label entropy, errors `(folds, budgets, configurations, seeds)`."""
    x, y = load(name)
    splits = [tables.split(x.to(device), y.to(device), fold, SEEDS) for fold in folds]
    races = [selection.race(part) for part in splits]
    return {
        "validation": torch.stack([tables.relative(r.validation, s) for r, s in zip(races, splits, strict=True)]),
        "test": torch.stack([tables.relative(r.test, s) for r, s in zip(races, splits, strict=True)]),
        "error": torch.stack([r.error for r in races]),
        "features": [tables.meta_features(part) for part in splits],
    }


def rows_of(name: str, part: dict) -> list[list[str]]:
    """The lines of one task: each configuration, then each optimiser with its tuned rate."""
    count, rates = len(selection.RATES), len(next(iter(selection.RATES.values())))
    by_rate = {k: part[k].unflatten(2, (count, rates)) for k in ("validation", "test", "error")}
    best = by_rate["validation"].argmin(3, keepdim=True)  # of each fold, budget, optimiser and seed
    tuned = {k: v.gather(3, best).squeeze(3) for k, v in by_rate.items()}
    lines = []
    for fold in range(len(part["test"])):
        for c, (optimizer, rate) in enumerate(selection.configurations()):
            lines.append([name, str(fold), optimizer, f"{rate:g}", *_numbers(part, fold, c)])
        for c, optimizer in enumerate(selection.RATES):
            lines.append([name, str(fold), optimizer, "tuned", *_numbers(tuned, fold, c)])
    return lines


def _numbers(part: dict, fold: int, c: int) -> list[str]:
    values = [part[k][fold, :, c].mean(-1) for k in ("validation", "test", "error")]  # (budgets,) each
    last = [part[k][fold, -1, c].std().item() / math.sqrt(SEEDS) for k in ("test", "error")]
    return [f"{value:.3f}".removeprefix("0") for value in [*torch.cat(values).tolist(), *last]]


def header() -> list[str]:
    """Names of the columns; `_300` is after 300 steps, `_se` the standard error of a mean over the seeds."""
    measured = [f"{k}_{budget}" for k in ("validation", "test", "error") for budget in selection.BUDGETS]
    last = selection.BUDGETS[-1]
    return ["task", "fold", "optimizer", "rate", *measured, f"test_{last}_se", f"error_{last}_se"]


def about(features: dict[str, list[list[float]]], names: list[str], folds: Sequence[int], device: str) -> dict:
    """The protocol of the table."""
    return {
        "made_by": "python experiments/optimizer_selection.py",
        "protocol": {
            "network": "one hidden layer of 32 units, ReLU, PyTorch's starts for linear layers",
            "minibatch": "32 rows, drawn with replacement",
            "rows": f"at most {tables.ROWS} of a set; a quarter of them for the test, the rest split 2 to 1",
            "inputs": "standardised by the training rows; a missing value becomes the column's mean",
            "loss": "cross-entropy over label entropy, at most 1 for each seed; mean over the seeds",
            "tuned": "for each seed the rate whose validation loss is least after as many steps",
        },
        "seeds": list(range(SEEDS)),
        "folds": len(folds),
        "quarters": list(folds),
        "budgets": list(selection.BUDGETS),
        "rates": {name: list(grid) for name, grid in selection.RATES.items()},
        "device": device,
        "versions": {
            "metabook": metabook.__version__,
            "torch": torch.__version__.split("+")[0],
            "python": platform.python_version(),
        },
        "features": names,
        "tasks": features,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", metavar="NAME", help="only these; by default all 70")
    parser.add_argument("--out", type=Path, default=Path(selection.__file__).parent, help="folder of the two files")
    parser.add_argument("--folds", nargs="+", type=int, default=[0, 1], help="which quarters are held out: 0 to 3")
    parser.add_argument("--parts", type=Path, help="folder of what is done, one file for each task; in the cache")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    names = options.tasks or [*pmlb_index(), DIGITS]
    done_before = "optimizer_selection-" + "-".join(map(str, options.folds))
    parts = options.parts or store.cache_folder() / "experiments" / done_before
    lines, features, feature_names = [header()], {}, []
    for number, name in enumerate(names, start=1):
        path = parts / f"{name}.pt"
        if not path.exists():
            done = measure(name, options.folds, options.device)
            store.write_atomically(path, lambda part, done=done: torch.save(done, part))
            print(f"{number}/{len(names)} {name}", file=sys.stderr, flush=True)
        part = torch.load(path, weights_only=True)
        lines += rows_of(name, part)
        features[name] = [[round(value, 4) for value in fold.values()] for fold in part["features"]]
        feature_names = list(part["features"][0])
    csv_path, json_path = options.out / "optimizer_selection.csv", options.out / "optimizer_selection.json"
    store.write_atomically(csv_path, lambda part: _write_csv(part, lines))
    text = json.dumps(about(features, feature_names, options.folds, options.device), indent=1)
    store.write_atomically(json_path, lambda part: part.write_text(text + "\n", encoding="utf-8"))
    return 0


def _write_csv(path: Path, lines: list[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)


if __name__ == "__main__":
    sys.exit(main())
