"""Glyphs: enough characters, each one a class of its own, split by script, the same from the same seed."""

import os
import unicodedata

import numpy as np
import pytest
import torch

from metabook import data
from metabook.data import glyphs
from metabook.tasks import FewShot


@pytest.fixture(scope="module")
def everything():
    return data.load_glyphs("all")


def test_counts(everything):
    scripts = [name for name in everything.group_names if name not in ("Arrows", "Operators")]
    assert everything.classes >= 1500 and len(scripts) >= 12
    assert everything.images.shape == (20 * everything.classes, 1, 28, 28)
    assert torch.equal(everything.labels.bincount(), torch.full((everything.classes,), 20))
    assert len(set(everything.class_names)) == everything.classes
    for split, classes in {"train": 1329, "validation": 90, "test": 185}.items():  # as the docstring says
        assert data.load_glyphs(split, drawers=1).classes == classes


def test_names_give_the_script(everything):
    firsts = {}
    for name, group in zip(everything.class_names, everything.groups.tolist(), strict=True):
        firsts.setdefault(everything.group_names[group], set()).add(name.split()[0])
    assert firsts["Latin"] == {"LATIN"} and firsts["Old Italic"] == {"OLD"} and firsts["N'Ko"] == {"NKO"}
    assert all(len(words) == 1 for group, words in firsts.items() if group not in ("Arrows", "Operators"))


def test_no_script_and_no_character_on_two_sides():
    parts = glyphs.scripts()
    assert set(parts) == {"train", "validation", "test"}
    scripts = [name for part in parts.values() for name in part]
    characters = [c for part in parts.values() for members in part.values() for c in members]
    assert len(scripts) == len(set(scripts)) and len(characters) == len(set(characters))
    loaded = [set(data.load_glyphs(split, drawers=1).class_names) for split in parts]
    assert sum(map(len, loaded)) == len(set.union(*loaded)) == len(characters)


def test_look_alikes_of_several_scripts_appear_once(everything):
    for letters in ("AΑА", "HΗН", "DoοоOΟОՕⵔ", "cсϲCС", "XΧХxхⵝ", "IlΙІ", "Kκкĸ", "TТΤ", "∆Δ"):
        assert sum(unicodedata.name(c) in everything.class_names for c in letters) == 1, letters


def test_same_seed_same_drawings_whatever_the_split(everything):
    test = data.load_glyphs("test", generator=torch.Generator().manual_seed(0))
    rows = torch.isin(everything.groups, torch.tensor([everything.group_names.index(g) for g in test.group_names]))
    assert torch.equal(test.images, everything.select_classes(rows).images)
    assert test.class_names == everything.select_classes(rows).class_names
    other = data.load_glyphs("test", generator=torch.Generator().manual_seed(1))
    assert (other.images != test.images).flatten(1).any(1).all()


def test_the_generator_moves_on():
    generator = torch.Generator().manual_seed(0)
    first, second = (data.load_glyphs("validation", drawers=2, generator=generator) for _ in range(2))
    assert not torch.equal(first.images, second.images)


def test_drawings_are_neither_blank_nor_blots_nor_copies(everything):
    ink = everything.images.flatten(1).float().mean(1) / 255
    assert 0.001 < ink.min() and ink.max() < 0.5 and 0.08 < ink.mean() < 0.16
    assert everything.images.flatten(1).max(1).values.min() > 100  # a dot may fall between the pixels
    assert len(everything.images.flatten(1).unique(dim=0)) == len(everything)


def test_classes_differ_and_drawings_of_a_class_agree(everything):
    """Correlations in pixels: not used to choose the characters, so an independent look at look-alikes.

    Means of 10 drawings are compared with those of the other 10.  Omniglot, measured in the same way: median 0.80,
    largest between classes 0.95, and 54 % of the classes most like themselves.
    """
    x = everything.images.view(everything.classes, 20, -1).float()
    x = x - x.mean(-1, keepdim=True)
    first, second = (torch.nn.functional.normalize(half.mean(1), dim=-1) for half in x.split(10, dim=1))
    similarity = first @ second.T
    own = similarity.diagonal().clone()
    assert own.median() > 0.85
    other = similarity.fill_diagonal_(-1).max(1).values
    assert other.max() < 0.97 and (own > other).float().mean() > 0.8


def test_drawers_have_a_hand(everything):
    """The pen of a drawer is recognised across characters: its mean ink varies more than chance allows."""
    ink = everything.images.flatten(1).float().mean(1).view(everything.classes, 20)
    relative = ink / ink.mean(1, keepdim=True)
    halves = relative[::2].mean(0), relative[1::2].mean(0)
    assert torch.corrcoef(torch.stack(halves))[0, 1] > 0.9
    assert torch.equal(everything.drawers, torch.arange(20).repeat(everything.classes))


@pytest.mark.parametrize("size", [8, 64, 105])
def test_sizes_show_the_same_drawing(size):
    small, other = data.load_glyphs("validation", drawers=2), data.load_glyphs("validation", drawers=2, size=size)
    assert other.images.shape[-2:] == (size, size)
    means = [d.images.flatten(1).float().mean(1) / 255 for d in (small, other)]
    assert torch.corrcoef(torch.stack(means))[0, 1] > 0.95 and (means[0] - means[1]).abs().max() < 0.05


def test_few_shot_tasks_within_scripts():
    tasks = FewShot(data.load_glyphs("test"), ways=10, shots=5, queries=15, within_groups=True)
    episode = tasks.sample(2, tasks.generator(0))
    assert episode.support.x.shape == (2, 50, 1, 28, 28) and episode.query.x.shape == (2, 150, 1, 28, 28)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "evaluation"}, "split must be one of train, validation, test, all, got 'evaluation'"),
        ({"size": 4}, "size must lie in 8..128"),
        ({"drawers": 0}, "0 drawers"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.load_glyphs(**arguments)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: a generator of the wrong device")
def test_generator_of_the_wrong_device():
    with pytest.raises(ValueError, match="need a generator there, got one on cuda"):
        data.load_glyphs("test", generator=torch.Generator("cuda"))


def test_cache_is_made_used_and_made_again_when_damaged(empty, monkeypatch):
    def load():
        glyphs._lines.cache_clear()
        return glyphs._lines()

    short = {"train": {"Latin": "ABC"}, "validation": {"Armenian": "Ա"}, "test": {"Hebrew": "א"}}
    monkeypatch.setattr(glyphs, "scripts", lambda: short)
    made = load()
    assert made[0].shape == (22, 64, 64) and made[1].shape == (5, 5)  # 4 characters in 5 styles, and Hebrew in 2
    (path,) = (empty / "glyphs").iterdir()
    monkeypatch.setattr("metabook.data.glyph_outlines.centre_lines", None)  # not needed when the cache is whole
    assert all(np.array_equal(a, b) for a, b in zip(made, load(), strict=True))
    monkeypatch.undo()
    monkeypatch.setenv("METABOOK_CACHE", str(empty))
    monkeypatch.setattr(glyphs, "scripts", lambda: short)
    path.write_bytes(path.read_bytes()[:1000])
    assert all(np.array_equal(a, b) for a, b in zip(made, load(), strict=True))
    monkeypatch.setattr(
        glyphs, "scripts", lambda: {**short, "train": {"Latin": "ABD"}}
    )  # other characters: another file
    assert not np.array_equal(made[0], load()[0])
    glyphs._lines.cache_clear()


def test_works_where_the_cache_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("METABOOK_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(glyphs, "scripts", lambda: {"train": {"Latin": "AB"}, "test": {"Hebrew": "א"}})
    glyphs._lines.cache_clear()
    assert data.load_glyphs("train").classes == 2
    glyphs._lines.cache_clear()
    assert os.listdir(tmp_path) == ["file"]
