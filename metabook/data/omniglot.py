"""Omniglot: 1,623 handwritten characters of 50 alphabets, each drawn once by 20 people.

B. M. Lake, R. Salakhutdinov and J. B. Tenenbaum, "Human-level concept learning through probabilistic program
induction", Science 350 (2015) 1332-1338.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from metabook.data import omniglot_files as files
from metabook.data.dataset import Dataset
from metabook.episode import Episode, Set

SPLITS = {
    "background": ("train", "validation"),
    "evaluation": ("test",),
    "all": ("train", "validation", "test"),
    "train": ("train",),
    "validation": ("validation",),
    "test": ("test",),
    "vinyals background": ("train", "validation"),
    "vinyals train": ("train",),
    "vinyals validation": ("validation",),
    "vinyals test": ("test",),
}
VINYALS_VALIDATION = {"Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)"}
VINYALS_BACKGROUND = 1200  # characters, in the order of their numbers


def alphabets() -> list[tuple[str, str, int]]:
    """Name, split and number of characters of each alphabet, in the order of the characters' numbers.

    Lake's background set is "train" and "validation" together (30 alphabets, 964 characters), the evaluation set is
    "test" (20 alphabets, 659 characters).  Validation is ours: of the background alphabets in alphabetical order, the
    first and every sixth after it (5 alphabets, 177 characters).
    """
    table = json.loads(Path(__file__).with_name("omniglot.json").read_text(encoding="utf-8"))
    return [(name, split, count) for name, split, count in table]


def vinyals_parts() -> list[str]:
    """Part of each of the 1,623 characters, by its number, in the split of O. Vinyals et al. (NeurIPS 2016).

    Papers call it a random split of the characters.  Its lists, as J. Snell published them, are the first 1,200
    characters for training, of which five whole alphabets are the validation, and the other 423 for the test: one
    alphabet, Gurmukhi, is on both sides.
    """
    inside = ["validation" if name in VINYALS_VALIDATION else "train" for name, _, n in alphabets() for _ in range(n)]
    return [part if c < VINYALS_BACKGROUND else "test" for c, part in enumerate(inside)]


def load_omniglot(size: int = 28, split: str = "background", *, download: bool = True) -> Dataset:
    """All drawings of a split, in the order character, drawer.

    Args:
        size: 28, the exact area average, or 105, the original pixels (0 or 255).
        split: "background" or "evaluation" (Lake's, by alphabet), "all"; or background's two parts "train" and
            "validation", and "test", another name of "evaluation".  Most published results are on the split of Vinyals
            et al.: "vinyals background" and its parts "vinyals train" and "vinyals validation", and "vinyals test".
        download: fetch the official files (16 MB) when they are not on this machine.

    Returns:
        Images `(20 * classes, 1, size, size)`; groups are alphabets, drawers 0..19.

    Raises:
        DataNotFound: no file on this machine, and none to be had.
        ValueError: an unknown size or split, or a damaged file in METABOOK_DATA.
    """
    if size not in (28, 105):
        raise ValueError(f"size must be 28 or 105, got {size!r}")
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    table = alphabets()
    group = torch.tensor([g for g, (_, _, count) in enumerate(table) for _ in range(count)])  # (1623,)
    lakes = [part for _, part, count in table for _ in range(count)]
    parts = vinyals_parts() if split.startswith("vinyals") else lakes
    mask = torch.tensor([part in SPLITS[split] for part in parts])
    wanted = group[mask].unique()
    images = files.images(size, mask.numpy(), download)  # (classes, 20, size, size)
    classes, drawers = images.shape[:2]
    named = [f"{name} {c + 1}" for name, _, count in table for c in range(count)]
    return Dataset(
        images=torch.from_numpy(images).view(-1, 1, size, size),
        labels=torch.arange(classes).repeat_interleave(drawers),
        groups=torch.searchsorted(wanted, group[mask]),
        class_names=tuple(name for name, kept in zip(named, mask.tolist(), strict=True) if kept),
        group_names=tuple(table[g][0] for g in wanted.tolist()),
        name="Omniglot" if split == "all" else f"Omniglot {split}",
        drawers=torch.arange(drawers).repeat(classes),
    )


def omniglot_oneshot_runs(size: int = 28, *, download: bool = True) -> Episode:
    """The official test of within-alphabet 20-way 1-shot classification: 20 runs of 20 test items.

    Lake et al. (2015): each run takes 20 characters of one evaluation alphabet, drawn by one person for the support
    and by another for the query.

    Args:
        size: 28, the exact area average, or 105, the original pixels.
        download: fetch the official file (0.4 MB) when it is not on this machine.

    Returns:
        20 tasks: support x and query x `(20, 20, 1, size, size)` in 0..1, y `(20, 20)`; the support images stand
        in the order of the labels 0..19.

    Raises:
        DataNotFound: no file on this machine, and none to be had.
        ValueError: an unknown size, or a damaged file in METABOOK_DATA.
    """
    if size not in (28, 105):
        raise ValueError(f"size must be 28 or 105, got {size!r}")
    support, query, answers = files.oneshot_runs(size, download)
    labels = torch.arange(support.shape[1]).repeat(len(support), 1)
    x = [torch.from_numpy(images)[:, :, None].float() / 255 for images in (support, query)]
    return Episode(Set(x[0], labels), Set(x[1], torch.from_numpy(answers)))
