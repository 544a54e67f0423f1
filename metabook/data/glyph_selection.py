"""Which characters Glyphs consists of: no boxes for missing glyphs, no blanks, no two that look alike.

The result is frozen in `glyphs.json`, so that a class has the same number everywhere; a test selects again and
compares.
"""

from __future__ import annotations

import unicodedata

import numpy as np

from metabook.data.glyph_outlines import STYLES, characters, distances, fill, outline, thin

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
    "COPTIC": "Coptic",
    "CANADIAN": "Canadian Aboriginal",
    "LISU": "Lisu",
    "BRAILLE": "Braille",
}
SPLITS = {
    "train": ("Latin", "Greek", "Cyrillic", "Canadian Aboriginal", "Arabic", "Ogham", "Braille"),
    "validation": ("Armenian", "Lao", "N'Ko"),
    "test": ("Georgian", "Hebrew", "Tifinagh", "Old Italic"),
}
ALIKE = 4.0  # pixels, of 44 that a character is wide or high
ALIKE_ACCENTED = 5.0  # a letter with an accent must differ more, accents being small
SMALLEST = 10  # characters of a script


def select() -> dict[str, dict[str, str]]:
    """The characters of each script, by split: `{"train": {"Latin": "ABC..."}}`; takes about 15 s.

    Candidates are the letters of the scripts (and the six-dot cells of Braille) in DejaVu Sans: first those that
    Unicode does not compose of a letter and an accent, then those that it does.  A candidate stays unless it looks
    like one that stays already.
    """
    candidates = sorted(filter(_eligible, characters("Sans")), key=_precedence)
    accented = np.array([_accented(c) for c in candidates])
    near, nearer = alike(candidates, (ALIKE_ACCENTED, ALIKE))
    stays = np.zeros(len(candidates), bool)
    for i in range(len(candidates)):
        rivals = near[i] if accented[i] else nearer[i]
        stays[i] = rivals[i] and not (rivals & stays).any()  # blanks are not even like themselves
    chosen: dict[str, list[str]] = {}
    for character in (c for c, kept in zip(candidates, stays, strict=True) if kept):
        chosen.setdefault(script(character), []).append(character)
    return {
        split: {name: "".join(sorted(chosen[name])) for name in names if len(chosen[name]) >= SMALLEST}
        for split, names in SPLITS.items()
    }


def alike(candidates: list[str], tolerances: tuple[float, ...]) -> list[np.ndarray]:
    """Which characters look alike, for each tolerance: bool `(candidates, candidates)`.

    Two drawings look alike when each point of one's centre line lies within the tolerance of the other's, both scaled
    to the same box (their Hausdorff distance), in any style that draws both.  A character without ink, or drawn as
    the box for a missing glyph, is like nothing, not even itself.

    Args:
        candidates: single characters.
        tolerances: pixels, of the 44 that a character is wide or high.
    """
    result = [np.zeros((len(candidates), len(candidates)), bool) for _ in tolerances]
    for style in STYLES:
        drawn = [(i, outline(style, c)) for i, c in enumerate(candidates) if c in characters(style)]
        drawn = [(i, path) for i, path in drawn if path is not None]
        missing = outline(style, None)
        sheets = fill([path for _, path in drawn] + [missing])
        index = np.array([i for i, _ in drawn])
        kept = sheets[:-1].any((1, 2)) & (sheets[:-1] != sheets[-1]).any((1, 2))
        lines = thin(sheets[:-1][kept])
        index, away = index[kept], distances(lines).reshape(len(lines), -1)
        ink = lines.reshape(len(lines), -1).astype(np.float32)
        for matrix, tolerance in zip(result, tolerances, strict=True):
            covered = ink @ (away > tolerance).astype(np.float32).T == 0  # all of one's ink lies near the other's
            matrix[np.ix_(index, index)] |= covered & covered.T
    return result


def script(character: str) -> str:
    """The script of a character, from its name in Unicode; "" for one that is not here."""
    return SCRIPTS.get(unicodedata.name(character, "?").split()[0], "")


def _eligible(character: str) -> bool:
    if script(character) == "Braille":
        return 0x2801 <= ord(character) <= 0x283F  # cells of six dots
    form, *parts = unicodedata.decomposition(character).split() or [""]
    contextual = form in ("<initial>", "<medial>", "<final>") and len(parts) == 1  # how Arabic letters join
    letter = unicodedata.category(character) in ("Lu", "Ll", "Lo")
    return bool(script(character)) and letter and (contextual or not form.startswith("<"))


def _accented(character: str) -> bool:
    decomposition = unicodedata.decomposition(character)
    return bool(decomposition) and not decomposition.startswith("<")


def _precedence(character: str) -> tuple:
    compatible = unicodedata.decomposition(character).startswith("<")
    order = list(SCRIPTS.values()).index(script(character))
    return _accented(character), compatible, order, ord(character)
