"""The choice of characters: what counts as alike, and that the frozen list holds only what it should."""

import os

import numpy as np
import pytest

from metabook.data import glyph_selection as selection
from metabook.data.glyphs import scripts


def alike(text):
    return selection.alike(list(text), (selection.TOLERANCE,))[0]


@pytest.mark.parametrize("pair", ["AΑ", "AА", "ΑА", "oО", "cC", "сϲ", "lI", "PР", "HН", "ӀI", "UՍ", "OО"])
def test_look_alikes(pair):
    assert alike(pair).all(), pair


@pytest.mark.parametrize("pair", ["AB", "OQ", "ΔA", "бв", "ᐃᐅ", "שס", "EF", "→←", "≤≥", "⠇⠛", "mw", "bd", "NИ"])
def test_different_characters(pair):
    assert np.array_equal(alike(pair), np.eye(2, dtype=bool)), pair


def test_blanks_and_missing_glyphs_are_like_nothing(monkeypatch):
    assert not alike("\u00a0\u2003")[0].any()  # spaces have no outline
    assert not alike("A\ue7ff\u4e00").any(axis=0)[1:].any()  # no glyph in these fonts
    box = selection.outline("Sans", None)
    assert box is not None
    outline = selection.outline
    monkeypatch.setattr(selection, "outline", lambda style, c: outline(style, None if c == "B" else c))
    assert alike("AB").tolist() == [[True, False], [False, False]]  # B is now drawn as the box for missing glyphs


def test_no_two_characters_of_the_list_look_alike():
    chosen = [c for part in scripts().values() for members in part.values() for c in members]
    assert np.array_equal(alike(chosen), np.eye(len(chosen), dtype=bool))


def test_the_list_matches_the_splits():
    assert {part: tuple(names) for part, names in scripts().items()} == selection.SPLITS
    for part in scripts().values():
        for name, members in part.items():
            assert {selection.group(c) for c in members} == {name} and len(members) >= 10


@pytest.mark.skipif(os.environ.get("METABOOK_SLOW") != "1", reason="takes a minute: METABOOK_SLOW=1")
def test_the_frozen_list_is_what_the_rule_gives():
    assert selection.select() == scripts()
