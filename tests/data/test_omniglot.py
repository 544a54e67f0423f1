"""Omniglot as a data set: Lake's split, our validation split, and the official one-shot runs."""

import csv
from pathlib import Path

import pytest
import torch

from metabook import data
from metabook.data import store
from metabook.data.omniglot import alphabets, vinyals_parts


def companion(name):
    """The rows of a table that lies beside the packed files, where there is one."""
    path = store.locate("omniglot", name)
    if path is None:
        pytest.skip(f"{name} does not lie beside the packed files of Omniglot")
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_split_is_lakes_and_no_alphabet_straddles():
    table = alphabets()
    counts = {part: [n for _, split, n in table if split == part] for part in ("train", "validation", "test")}
    assert len(table) == len({name for name, _, _ in table}) == 50
    assert (len(counts["train"]), len(counts["validation"]), len(counts["test"])) == (25, 5, 20)
    assert sum(counts["train"]) + sum(counts["validation"]) == 964 and sum(counts["test"]) == 659
    background = sorted(name for name, split, _ in table if split != "test")
    assert sorted(name for name, split, _ in table if split == "validation") == background[::6]


def test_the_table_agrees_with_the_official_classes():
    rows = companion("classes.csv")
    named = [(name, split, c + 1) for name, split, count in alphabets() for c in range(count)]
    assert len(rows) == len(named) == 1623
    for row, (name, split, character) in zip(rows, named, strict=True):
        assert (row["alphabet"], row["character"]) == (name, str(character))
        assert row["split"] == ("evaluation" if split == "test" else "background")


def test_the_split_of_vinyals_agrees_with_the_published_lists():
    short = {"train": "train", "validation": "val", "test": "test"}
    rows = companion("vinyals_split.csv")
    assert [row["split"] for row in rows] == [short[part] for part in vinyals_parts()]


def test_vinyals_test_shares_one_alphabet_with_its_training(omniglot):
    inside, outside = (set(data.load_omniglot(split=f"vinyals {part}").group_names) for part in ("background", "test"))
    assert inside & outside == {"Gurmukhi"}


@pytest.mark.parametrize(
    ("split", "classes", "groups"),
    [
        ("background", 964, 30),
        ("evaluation", 659, 20),
        ("all", 1623, 50),
        ("train", 787, 25),
        ("validation", 177, 5),
        ("vinyals background", 1200, 38),
        ("vinyals train", 1028, 33),
        ("vinyals validation", 172, 5),
        ("vinyals test", 423, 13),
    ],
)
def test_splits(omniglot, split, classes, groups):
    dataset = data.load_omniglot(split=split)
    assert dataset.images.shape == (20 * classes, 1, 28, 28) and len(dataset.group_names) == groups
    assert torch.equal(dataset.labels.bincount(), torch.full((classes,), 20))
    assert torch.equal(dataset.drawers.view(classes, 20)[3], torch.arange(20))
    for c in (0, classes // 2, classes - 1):
        name = dataset.group_names[dataset.groups[c]]
        assert dataset.class_names[c].rsplit(" ", 1)[0] == name


def test_the_parts_are_the_whole(omniglot):
    whole = data.load_omniglot(split="all")
    for split in ("train", "validation", "test"):
        part = data.load_omniglot(split=split)
        chosen = whole.select(part.group_names)
        assert torch.equal(chosen.images, part.images) and torch.equal(chosen.groups, part.groups)
        assert chosen.class_names == part.class_names
    assert torch.equal(data.load_omniglot(split="test").images, data.load_omniglot(split="evaluation").images)


def test_sizes_agree(omniglot):
    small, large = (data.load_omniglot(size, "validation") for size in (28, 105))
    assert large.images.shape == (3540, 1, 105, 105) and set(large.images.unique().tolist()) == {0, 255}
    assert torch.equal(small.labels, large.labels) and small.class_names == large.class_names
    exact = torch.nn.functional.adaptive_avg_pool2d(  # 28 pixels of 105 are 4 parts each, in units of a quarter pixel
        large.images[::50].double().repeat_interleave(4, 2).repeat_interleave(4, 3), (28, 28)
    )
    assert (small.images[::50] - exact).abs().max() <= 0.5


def test_one_shot_runs(omniglot):
    runs = data.omniglot_oneshot_runs()
    assert runs.support.x.shape == runs.query.x.shape == (20, 20, 1, 28, 28)
    assert runs.support.x.dtype == torch.float32 and runs.support.x.max() == 1 and runs.support.x.min() == 0
    assert torch.equal(runs.support.y, torch.arange(20).expand(20, 20))
    assert torch.equal(runs.query.y.sort(1).values, torch.arange(20).expand(20, 20))  # each class is asked for once


def test_one_shot_runs_are_the_official_drawings(omniglot):
    rows = companion("oneshot_runs.csv")
    runs, whole = data.omniglot_oneshot_runs(), data.load_omniglot(split="all")
    assert len(rows) == 400
    for row in rows:
        run, item, answer = int(row["run"]) - 1, int(row["test_item"][4:]) - 1, int(row["train_item"][5:]) - 1
        assert runs.query.y[run, item] == answer
        character = 20 * (int(row["char_id"]) - 1)
        for x, drawer in ((runs.query.x[run, item], "test_drawer"), (runs.support.x[run, answer], "train_drawer")):
            assert torch.equal((255 * x).round().to(torch.uint8), whole.images[character + int(row[drawer]) - 1])


def test_bad_arguments():
    with pytest.raises(ValueError, match="size must be 28 or 105, got 32"):
        data.load_omniglot(32)
    with pytest.raises(ValueError, match="split must be one of background, evaluation, all.*got 'dev'"):
        data.load_omniglot(split="dev")
    with pytest.raises(ValueError, match="size must be 28 or 105, got 84"):
        data.omniglot_oneshot_runs(84)


def test_absent(empty):
    for load in (data.load_omniglot, data.omniglot_oneshot_runs):
        with pytest.raises(data.DataNotFound, match="raw.githubusercontent.com/brendenlake.*METABOOK_DATA"):
            load(download=False)
