"""The colours are readable on both pages and for everybody; the style has no effect until it is called."""

import subprocess
import sys
from itertools import combinations

import matplotlib
import numpy as np
import pytest
import torch

from metabook.plotting import DARK_FILTER, color_of, colors, style
from metabook.plotting.interactive import turned
from metabook.plotting.style import RC, class_style, text_color, to_array

WHITE, DARK = "#ffffff", ("#121212", "#14171c", "#14181e")
GRAPHICS = {name: getattr(colors, name) for name in ("scratch", "pooled", "meta", "oracle", "query")}
GRAPHICS |= {f"class {k}": color for k, color in enumerate(colors.classes)}


def rgb(color: str) -> np.ndarray:
    return np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def hexed(channels: np.ndarray) -> str:
    return "#" + "".join(f"{round(255 * c):02x}" for c in channels.clip(0, 1))


def linear(color: str) -> np.ndarray:
    c = rgb(color)
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(a: str, b: str) -> float:
    """WCAG 2.2, contrast ratio."""
    low, high = sorted(linear(color) @ [0.2126, 0.7152, 0.0722] for color in (a, b))
    return (high + 0.05) / (low + 0.05)


def filtered(color: str, amount: float = 0.93, degrees: float = 180) -> str:
    """CSS Filter Effects: invert, then hue-rotate by its general matrix; clamped in between, as browsers do."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    grey = np.tile([0.213, 0.715, 0.072], (3, 1))
    along = np.array([[0.787, -0.715, -0.072], [-0.213, 0.285, -0.072], [-0.213, -0.715, 0.928]])
    across = np.array([[-0.213, -0.715, 0.928], [0.143, 0.140, -0.283], [-0.787, 0.715, 0.072]])
    inverted = rgb(color) * (1 - 2 * amount) + amount
    return hexed((grey + c * along + s * across) @ inverted)


def test_turned_is_the_css_filter():
    assert DARK_FILTER == "invert(0.93) hue-rotate(180deg)"
    for color in [*GRAPHICS.values(), colors.ink, colors.muted, "#ffffff", "#000000", "#ff0000"]:
        assert np.abs(rgb(turned(color)) - rgb(filtered(color))).max() <= 1.5 / 255


@pytest.mark.parametrize("name", GRAPHICS)
def test_graphics_have_a_contrast_of_three(name):
    color = GRAPHICS[name]
    assert contrast(color, WHITE) >= 3
    for page in DARK:
        assert contrast(color, page) >= 3, "as it is, where nobody turns it"
        assert contrast(filtered(color), page) >= 3, "turned, as on the site"


@pytest.mark.parametrize("color", [colors.ink, colors.muted, *map(text_color, GRAPHICS.values())])
def test_text_has_a_contrast_of_four_and_a_half(color):
    assert contrast(color, WHITE) >= 4.5
    assert min(contrast(filtered(color), page) for page in DARK) >= 4.5


# Machado, Oliveira and Fernandes (2009), severity 1.0, on linear rgb.
BLINDNESS = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    "none": np.eye(3),
}


def oklab(rgb_linear: np.ndarray) -> np.ndarray:
    """Ottosson's perceptual space, in which distances look alike."""
    to_cone = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    to_lab = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    return np.array(to_lab) @ np.cbrt(np.array(to_cone) @ rgb_linear.clip(0, 1))


@pytest.mark.parametrize("kind", BLINDNESS)
@pytest.mark.parametrize("turn", [str, filtered], ids=["light", "dark"])
def test_roles_and_first_classes_stay_apart(kind, turn):
    def distance(a, b):
        seen = [oklab(np.array(BLINDNESS[kind]) @ linear(turn(color))) for color in (a, b)]
        return np.linalg.norm(seen[0] - seen[1])

    roles = [colors.scratch, colors.pooled, colors.meta, colors.oracle, colors.query]
    assert min(distance(a, b) for a, b in combinations(roles, 2)) >= 0.055
    assert min(distance(a, b) for a, b in combinations(colors.classes[:4], 2)) >= 0.045


def test_labels_name_their_role():
    assert color_of("from scratch") == colors.scratch
    assert color_of("pooled, fine-tuned") == color_of("Nearest neighbour in pixels") == colors.pooled
    assert color_of("Bayes-optimal") == color_of("exact posterior") == colors.oracle
    assert color_of("MAML") == color_of("meta-learned") == colors.meta


def test_style_changes_settings_only_when_called():
    code = "import sys, metabook.plotting; print('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
    with matplotlib.rc_context():
        style()
        assert matplotlib.rcParams["figure.facecolor"] == "none"
        assert {matplotlib.rcParams[key] for key in ("text.color", "axes.labelcolor")} == {colors.ink}
        assert all(key in matplotlib.rcParams for key in RC)


def test_classes_beyond_the_palette_repeat():
    assert class_style(8) == class_style(0)
    assert len({class_style(k) for k in range(8)}) == 8


def test_to_array():
    tensor = torch.ones(2, requires_grad=True, dtype=torch.float32)
    assert to_array(tensor, "x").dtype == np.float64
    with pytest.raises(ValueError, match=r"x needs 1 dimension, got shape \(2, 1\)"):
        to_array([[1], [2]], "x", 1)
    with pytest.raises(ValueError, match="not finite, in 1 places"):
        to_array([1, float("nan")], "x")
