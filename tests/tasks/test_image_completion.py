"""Pixels of an episode are those of its images, each at most once."""

import pytest
import torch
from examples import images

from metabook.tasks import ImageCompletion


def test_an_episode_puts_the_image_together_again():
    dataset = images(size=6)
    tasks = ImageCompletion(dataset, shots=10)
    support, query = tasks.sample(5, tasks.generator(0))
    assert support.x.shape == (5, 10, 2) and query.y.shape == (5, 26, 1)
    x, y = (torch.cat(both, 1) for both in zip(support, query, strict=True))
    index = (x / tasks.spacing).round().long() + 3
    drawn = torch.full((5, 6, 6), -1.0)
    drawn[torch.arange(5)[:, None], index[..., 0], index[..., 1]] = y.squeeze(-1)
    known = dataset.images[:, 0].float() / 255
    for image in drawn:
        assert (known - image).abs().flatten(1).amax(1).min() < 1e-6


def test_places_are_lattice_points_within_one_of_the_middle():
    tasks = ImageCompletion(images(size=7), shots=3)
    places = tasks.places()
    assert places.shape == (49, 2) and places.abs().max() <= 1
    torch.testing.assert_close(places / tasks.spacing, (places / tasks.spacing).round())
    torch.testing.assert_close(places[:7, 1].diff(), torch.full((6,), tasks.spacing))
    assert (places[:7, 0] == places[0, 0]).all()


def test_numbers_and_seeds():
    tasks = ImageCompletion(images(size=6), shots=(2, 4), queries=5)
    generator = tasks.generator(0)
    seen = {tasks.sample(2, generator).support.x.shape[1] for _ in range(30)}
    assert seen == {2, 3, 4}
    same, again = (tasks.sample(2, tasks.generator(3)) for _ in range(2))
    assert torch.equal(same.query.y, again.query.y) and same.query.x.shape == (2, 5, 2)


def test_bad_arguments():
    with pytest.raises(ValueError, match="36 pixels"):
        ImageCompletion(images(size=6), shots=36)
    with pytest.raises(ValueError, match=r"shots \(5, 2\)"):
        ImageCompletion(images(size=6), shots=(5, 2))
    with pytest.raises(ValueError, match="queries must be a positive integer, got 0"):
        ImageCompletion(images(size=6), shots=5, queries=0)
