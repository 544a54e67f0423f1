"""Dataset: what it refuses, and that a selection keeps images, classes and groups together."""

import pytest
import torch
from examples import images

from metabook.data import Dataset


def fields(**changes):
    """Four images of three classes in two groups."""
    return {
        "images": torch.arange(16, dtype=torch.uint8).view(4, 1, 2, 2),
        "labels": torch.tensor([2, 0, 1, 0]),
        "groups": torch.tensor([1, 0, 1]),
        "class_names": ("a", "b", "c"),
        "group_names": ("x", "y"),
        "name": "four",
        "drawers": torch.tensor([5, 6, 7, 8]),
        **changes,
    }


def test_what_it_says_about_itself():
    dataset = Dataset(**fields())
    assert dataset.classes == 3 and len(dataset) == 4
    assert repr(dataset) == "Dataset(four: 4 images 1x2x2, 3 classes, 2 groups)"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": torch.zeros(4, 1, 2, 2)}, "images must be a uint8 .* got float32 of shape"),
        ({"images": torch.zeros(4, 2, 2, dtype=torch.uint8)}, r"images .* got uint8 of shape \(4, 2, 2\)"),
        ({"images": [[0]]}, "images .* got list"),
        ({"images": torch.zeros(0, 1, 2, 2, dtype=torch.uint8)}, r"at least one pixel, got .*\(0, 1, 2, 2\)"),
        ({"labels": torch.tensor([2, 0, 1, 3])}, r"labels must lie in 0..2, there being 3 class names, .* 0 to 3"),
        ({"labels": torch.tensor([2, 0, 1, -1])}, "labels must lie in 0..2.* from -1 to 2"),
        ({"labels": torch.tensor([2, 0, 1])}, r"labels must be int64 of shape \(4,\), .* got int64 of shape \(3,\)"),
        ({"labels": torch.tensor([2, 0, 1, 0], dtype=torch.int32)}, "labels .* got int32"),
        ({"groups": torch.tensor([1, 0, 2])}, "groups must lie in 0..1.* from 0 to 2"),
        ({"groups": torch.tensor([1, 0])}, r"groups must be int64 of shape \(3,\), one per class"),
        ({"class_names": ("a", "b")}, "labels must lie in 0..1"),
        ({"drawers": torch.tensor([1, 2])}, r"drawers must be int64 of shape \(4,\)"),
        ({"drawers": torch.tensor([1, 2, 3, -4])}, "drawers must be 0 or more, got values from -4 to 3"),
        ({"groups": torch.zeros(3, dtype=torch.int64, device="meta")}, "groups on meta but images on cpu"),
    ],
)
def test_bad_fields(changes, message):
    with pytest.raises(ValueError, match=message):
        Dataset(**fields(**changes))


def test_selection_relabels_classes_and_groups():
    chosen = Dataset(**fields()).select(["y"], name="part")
    assert chosen.name == "part" and chosen.class_names == ("a", "c") and chosen.group_names == ("y",)
    assert chosen.labels.tolist() == [1, 0, 0] and chosen.groups.tolist() == [0, 0]
    assert chosen.images[:, 0, 0, 0].tolist() == [0, 4, 12] and chosen.drawers.tolist() == [5, 6, 8]


def test_selections_agree_whatever_the_way_of_asking():
    dataset = images(classes=12, groups=4)
    mask = (dataset.groups == 1) | (dataset.groups == 3)
    ways = [dataset.select(["group 3", "group 1"]), dataset.select([1, 3]), dataset.select_classes(mask)]
    for chosen in ways:
        assert chosen.group_names == ("group 1", "group 3") and chosen.drawers is None
        names = [dataset.class_names[c] for c in mask.nonzero()[:, 0]]
        assert list(chosen.class_names) == names
        original = chosen.images[:, 0, 0, 0].tolist()  # the first pixel of an image is its class
        assert [chosen.class_names[k] for k in chosen.labels] == [f"class {c}" for c in original]
        groups = [chosen.group_names[g] for g in chosen.groups]
        assert groups == [dataset.group_names[dataset.groups[c]] for c in mask.nonzero()[:, 0]]
    assert dataset.select("group 2").classes == dataset.select(2).classes == 3


def test_bad_selections():
    dataset = Dataset(**fields())
    for groups in (["z"], [2], [-1], "z"):
        with pytest.raises(ValueError, match="there is no group .*; four has the groups x, y"):
            dataset.select(groups)
    with pytest.raises(ValueError, match="no group was named"):
        dataset.select([])
    with pytest.raises(ValueError, match=r"mask must be bool of shape \(3,\), got int64"):
        dataset.select_classes(torch.tensor([0, 1, 1]))
    with pytest.raises(ValueError, match="no image of four is left"):
        dataset.select_classes(torch.zeros(3, dtype=torch.bool))


def test_moves_as_a_whole(device):
    dataset = Dataset(**fields()).to(device)
    tensors = (dataset.images, dataset.labels, dataset.groups, dataset.drawers)
    assert all(tensor.device.type == device.type for tensor in tensors)
    assert dataset.select(["y"]).labels.device.type == device.type
