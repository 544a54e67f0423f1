"""Every figure shows the numbers that it was given, and refuses what it cannot draw."""

import io

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from metabook.episode import Episode, Set
from metabook.evaluation import Scores
from metabook.history import History
from metabook.plotting import (
    band,
    bars,
    colors,
    decision_regions,
    label_lines,
    plot_history,
    scatter_classes,
    show_episode,
    show_images,
    style,
)  # fmt: skip
from metabook.plotting.marks import _apart

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def closed():
    with matplotlib.rc_context():
        style()
        yield
    plt.close("all")


@pytest.fixture
def ax():
    return plt.subplots()[1]


def scores(mean, metric="accuracy"):
    return Scores(mean + torch.tensor([-0.1, 0.1]).repeat(50), metric)


def images_episode(ways=3, shots=2, queries=7):
    def part(n):
        return Set(torch.rand(2, ways * n, 1, 28, 28), torch.arange(ways).repeat_interleave(n).expand(2, -1))

    return Episode(part(shots), part(queries))


def texts(ax):
    return [t.get_text() for t in ax.texts]


def test_band_holds_the_interval(ax):
    band(ax, torch.arange(3), [1.0, 2.0, 4.0], [0.5, 0.25, 0.1], color=colors.meta, label="MAML")
    (path,) = ax.collections[0].get_paths()
    at_one = path.vertices[path.vertices[:, 0] == 1, 1]
    assert {*at_one} == {1.75, 2.25}
    with pytest.raises(ValueError, match=r"one shape, got \(3,\), \(3,\), \(2,\)"):
        band(ax, range(3), range(3), range(2), color=colors.meta)


@pytest.mark.parametrize(
    ("heights", "expected"),
    [
        ([0, 100, 50], [0, 100, 50]),  # far apart: left alone
        ([50, 50], [45, 55]),
        ([0, 1, 2, 90], [-9, 1, 11, 90]),
        ([5, 0], [7.5, -2.5]),
        ([7], [7]),
    ],
)
def test_names_are_pushed_apart_as_little_as_possible(heights, expected):
    assert np.allclose(_apart(np.array(heights, float), 10), expected)


def test_label_lines_names_each_line_at_its_end_without_overlap(ax):
    for k, name in enumerate(["from scratch", "pooled", "MAML"]):
        ax.plot([0, 1], [0, 0.01 * k], label=name)
    ax.plot([0, 1], [1, 1])  # without a label
    names = label_lines(ax)
    assert [t.get_text() for t in names] == ["from scratch", "pooled", "MAML"]
    ax.figure.draw_without_rendering()
    boxes = sorted((t.get_window_extent() for t in names), key=lambda box: box.y0)
    assert all(low.y1 <= high.y0 + 1 for low, high in zip(boxes, boxes[1:], strict=False))
    assert label_lines(plt.subplots()[1]) == []


def test_bars_write_mean_and_interval_and_mark_what_is_not_ours():
    ax = bars({"from scratch": scores(0.4), "MAML": scores(0.9)}, chance=0.2, published={"MAML, paper": 0.987})
    assert texts(ax)[:4] == ["40.0 ± 2.0 %", "90.0 ± 2.0 %", "98.7 %", "chance"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["from scratch", "MAML", "MAML, paper"]
    assert np.allclose([bar.get_width() for bar in ax.patches], [40, 90], atol=1e-4)
    assert [matplotlib.colors.to_hex(bar.get_facecolor()) for bar in ax.patches] == [colors.scratch, colors.meta]
    error = ax.collections[0].get_segments()[0][:, 0]
    assert np.allclose(error, [40 - 100 * scores(0.4).ci95, 40 + 100 * scores(0.4).ci95], atol=1e-4)


def test_bars_of_errors_and_of_pairs():
    assert texts(bars({"MAML": scores(0.5, "mse")}))[0] == "0.500 ± 0.020"
    assert texts(bars({"a": (2.0, 0.125)}, colors_by_name={"a": colors.oracle}))[0] == "2 ± 0.12"
    left, right = bars({"gain": (2.0, 0.125), "loss": (-0.5, 0.25)}).get_xlim()
    assert left < -0.75 and right > 2.125  # a loss and its interval are not cut off
    with pytest.raises(ValueError, match="one metric, got .'accuracy', 'mse'."):
        bars({"a": scores(0.5), "b": scores(0.5, "mse")})
    with pytest.raises(ValueError, match="no scores"):
        bars({})


def test_decision_regions_tint_the_winner(ax):
    centres = torch.tensor([[0.0, 0.0], [4.0, 0.0]])

    def predict(x):  # a third class that is never predicted, as PrototypicalNetwork has
        return torch.cat([-torch.cdist(x, centres), torch.full((len(x), 1), -torch.inf)], 1)

    decision_regions(ax, predict, support=(centres, [0, 1]), prototypes=centres, bounds=(-2, 6, -2, 2))
    fills = [c for c in ax.collections if isinstance(c, matplotlib.contour.QuadContourSet) and c.filled]
    for fill, (left, right) in zip(fills, [(-2, 2), (2, 6)], strict=True):
        (path,) = fill.get_paths()
        assert abs(path.vertices[:, 0].min() - left) < 0.05 and abs(path.vertices[:, 0].max() - right) < 0.05
    assert ax.get_xlim() == (-2, 6) and ax.get_aspect() == 1


def test_decision_regions_refuse(ax):
    with pytest.raises(ValueError, match="give bounds"):
        decision_regions(ax, lambda x: x)
    with pytest.raises(ValueError, match=r"to \(\d+, ways\), got \(2,\)"):
        decision_regions(ax, lambda x: x.sum(0), bounds=(0, 1, 0, 1))
    with pytest.raises(ValueError, match=r"support need shape \(n, 2\).*got \(3, 2\) and \(2,\)"):
        decision_regions(ax, lambda x: x, support=(torch.zeros(3, 2), torch.zeros(2)))
    with pytest.raises(ValueError, match="kind must be one of support, query, prototype, got 'queries'"):
        scatter_classes(ax, torch.zeros(3, 2), torch.zeros(3), kind="queries")
    with pytest.raises(ValueError, match="met -1"):
        scatter_classes(ax, torch.zeros(1, 2), [-1])


def test_show_episode_has_a_row_for_each_class():
    episode = images_episode()
    episode.support.x[1, 3] = 1  # the second example of class 1 is all ink
    support, query = show_episode(episode, task=1).axes
    assert [t.get_text() for t in support.texts] == ["class 0", "class 1", "class 2"]
    assert support.get_title(loc="left") == "support\n2 per class"
    assert query.get_title(loc="left") == "query\n5 of 7 per class"
    canvas = support.images[0].get_array()
    assert canvas.shape == (3 * 31 - 3, 2 * 31 - 3, 4)
    assert (canvas[31 : 31 + 28, 31:, 3] == 1).all() and (canvas[28:31, :, 3] == 0).all()


def test_show_episode_refuses():
    episode = images_episode()
    with pytest.raises(ValueError, match=r"task must lie in 0..1, got 2"):
        show_episode(episode, task=2)
    flat = Episode(*(Set(part.x.flatten(2), part.y) for part in episode))
    with pytest.raises(ValueError, match=r"got x \(2, 6, 784\)"):
        show_episode(flat)


def test_show_images():
    fig = show_images((255 * torch.rand(7, 1, 8, 8)).to(torch.uint8), titles=list("abcdefg"), columns=4)
    assert [ax.get_title() for ax in fig.axes] == [*"abcdefg", ""]
    assert fig.axes[0].images[0].get_array()[..., 3].max() <= 1
    with pytest.raises(ValueError, match=r"got \(8, 8\)"):
        show_images(torch.rand(8, 8))
    with pytest.raises(ValueError, match="2 titles for 3 images"):
        show_images(torch.rand(3, 8, 8), titles=["a", "b"])


def test_history_shows_the_score_where_there_is_validation():
    history = History(loss=[1.0] * 100, score=[0.5] * 100, tasks_per_second=[1.0] * 100)
    assert plot_history(history).get_ylabel() == "meta-loss"
    history.validation = [(50, scores(0.6)), (100, scores(0.7))]
    ax = plot_history(history, label="MAML")
    assert ax.get_ylabel() == "query accuracy, %"
    assert np.allclose(ax.get_lines()[1].get_ydata(), 50) and ax.get_lines()[1].get_label() == "MAML"
    assert np.allclose(ax.get_lines()[2].get_ydata(), [60, 70])
    with pytest.raises(ValueError, match="no steps"):
        plot_history(History())


def test_pictures_are_transparent_and_small():
    ax = bars({name: scores(0.5) for name in "abcdefgh"}, chance=0.1, published={"x": 0.9})
    with io.BytesIO() as file:
        ax.figure.savefig(file, format="png", bbox_inches="tight")
        assert file.tell() < 150_000
        file.seek(0)
        assert plt.imread(file)[0, 0, 3] == 0
