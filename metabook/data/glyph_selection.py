"""Which characters Glyphs consists of: no boxes for missing glyphs, no blanks, no two that look alike.

The result is frozen in `glyphs.json`, so that a class has the same number everywhere; a test selects again and
compares.
"""

from __future__ import annotations

import unicodedata

import numpy as np

from metabook.data.glyph_outlines import SIDE, STYLES, characters, distances, fill, outline, thin

SCRIPTS = {  # by the first word of Unicode's names; of two look-alikes the earlier script keeps its character
    "LATIN": "Latin",
    "GREEK": "Greek",
    "CYRILLIC": "Cyrillic",
    "ARMENIAN": "Armenian",
    "GEORGIAN": "Georgian",
    "HEBREW": "Hebrew",
    "ARABIC": "Arabic",
    "TIFINAGH": "Tifinagh",
    "NKO": "N'Ko",
    "LAO": "Lao",
    "OLD": "Old Italic",
    "OGHAM": "Ogham",
    "CANADIAN": "Canadian Aboriginal",
    "BRAILLE": "Braille",
}
SIGNS = {  # by code points: two collections of signs, more alphabets to learn from
    "Arrows": (range(0x2190, 0x2200), range(0x27F0, 0x2800), range(0x2900, 0x2980)),
    "Operators": (range(0x2200, 0x2300), range(0x2A00, 0x2B00)),
}
SPLITS = {
    "train": ("Latin", "Greek", "Cyrillic", "Canadian Aboriginal", "Arabic", "Ogham", "Braille", "Arrows", "Operators"),
    "validation": ("Armenian", "Lao", "N'Ko"),
    "test": ("Georgian", "Hebrew", "Tifinagh", "Old Italic"),
}
TOLERANCE = {"as drawn": 4.2, "stretched": 4.0}  # pixels, of 44 that a character is wide or high
TOLERANCE_ACCENTED = {"as drawn": 5.7, "stretched": 5.0}  # accents are small, so letters with one must differ more


def select() -> dict[str, dict[str, str]]:
    """The characters of each script, by split: `{"train": {"Latin": "ABC..."}}`; takes about 30 s.

    Candidates are the letters of the scripts, the six-dot cells of Braille and the signs in DejaVu Sans: first those
    that Unicode does not compose of a character and an accent, then those that it does.  A candidate stays unless it
    looks like one that stays already.
    """
    candidates = sorted(filter(_eligible, characters("Sans")), key=_precedence)
    accented = np.array([_accented(c) for c in candidates])
    near, nearer = alike(candidates, (TOLERANCE_ACCENTED, TOLERANCE))
    stays = np.zeros(len(candidates), bool)
    for i in range(len(candidates)):
        rivals = near[i] if accented[i] else nearer[i]
        stays[i] = rivals[i] and not (rivals & stays).any()  # blanks are not even like themselves
    chosen: dict[str, list[str]] = {}
    for character in (c for c, kept in zip(candidates, stays, strict=True) if kept):
        chosen.setdefault(group(character), []).append(character)
    return {split: {name: "".join(sorted(chosen[name])) for name in names} for split, names in SPLITS.items()}


def alike(candidates: list[str], tolerances: tuple[dict[str, float], ...]) -> list[np.ndarray]:
    """Which characters look alike, for each set of tolerances: bool `(candidates, candidates)`.

    Two drawings look alike when each point of one's centre line lies within the tolerance of the other's (their
    Hausdorff distance), as drawn or with both stretched to a square, in any style that draws both.  A character
    without ink, or drawn as the box for a missing glyph, is like nothing, not even itself.

    Args:
        candidates: single characters.
        tolerances: pixels, of the 44 that a character is wide or high, "as drawn" and "stretched".
    """
    result = [np.zeros((len(candidates), len(candidates)), bool) for _ in tolerances]
    for style in STYLES:
        drawn = [(i, outline(style, c)) for i, c in enumerate(candidates) if c in characters(style)]
        drawn = [(i, path) for i, path in drawn if path is not None]
        paths = [path for _, path in drawn]
        box = outline(style, None)
        for form in ("as drawn", "stretched"):
            sheets = fill([*paths, box], stretch=form == "stretched")
            sheets, missing = sheets[:-1], sheets[-1]
            kept = sheets.any((1, 2)) & (sheets != missing).any((1, 2))
            lines = thin(sheets[kept])
            index = np.array([i for i, _ in drawn], dtype=np.int64)[kept]
            away = distances(lines).reshape(len(lines), SIDE * SIDE)
            ink = lines.reshape(len(lines), SIDE * SIDE).astype(np.float32)
            for matrix, tolerance in zip(result, tolerances, strict=True):
                covered = ink @ (away > tolerance[form]).astype(np.float32).T == 0  # all ink of one is near the other's
                matrix[np.ix_(index, index)] |= covered & covered.T
    return result


def group(character: str) -> str:
    """The script of a character, from its name in Unicode, or its collection of signs; "" for one not of here."""
    signs = (name for name, ranges in SIGNS.items() if any(ord(character) in codes for codes in ranges))
    return SCRIPTS.get(unicodedata.name(character, "?").split()[0]) or next(signs, "")


def _eligible(character: str) -> bool:
    name = group(character)
    if name in SIGNS:
        return True
    if name == "Braille":
        return 0x2801 <= ord(character) <= 0x283F  # cells of six dots
    form, *parts = unicodedata.decomposition(character).split() or [""]
    contextual = form in ("<initial>", "<medial>", "<final>") and len(parts) == 1  # how Arabic letters join
    letter = unicodedata.category(character) in ("Lu", "Ll", "Lo")
    return bool(name) and letter and (contextual or not form.startswith("<"))


def _accented(character: str) -> bool:
    decomposition = unicodedata.decomposition(character)
    return bool(decomposition) and not decomposition.startswith("<")


def _precedence(character: str) -> tuple:
    compatible = unicodedata.decomposition(character).startswith("<")
    order = [*SCRIPTS.values(), *SIGNS].index(group(character))
    return _accented(character), compatible, order, ord(character)
