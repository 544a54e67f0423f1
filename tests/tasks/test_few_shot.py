"""Few-shot episodes: what they must contain, and what must never happen."""

import pytest
import torch
from examples import images

from metabook.tasks import FewShot


def sample(n=50, seed=0, **options):
    settings = {"ways": 4, "shots": 2, "queries": 3, **options}
    dataset = settings.pop("dataset", None) or images()
    tasks = FewShot(dataset, **settings)
    return dataset, tasks, tasks.sample(n, tasks.generator(seed))


def identity(x):
    """Class and number of each image, as its first two pixels say: two (tasks, examples) tensors."""
    corner = (x[:, :, 0, 0, :2] * 255).round().long()
    return corner[..., 0], corner[..., 1]


def test_shapes_types_and_labels(device):
    _, _, episode = sample(device=device)
    assert episode.support.x.shape == (50, 8, 1, 8, 8) and episode.query.x.shape == (50, 12, 1, 8, 8)
    assert episode.support.x.dtype == torch.float32 and episode.support.y.dtype == torch.int64
    assert episode.support.x.min() >= 0 and 0.9 < episode.support.x.max() <= 1
    for part, per_class in zip(episode, (2, 3), strict=True):
        assert part.x.device.type == device.type
        assert torch.equal(part.y[7].bincount(), torch.full((4,), per_class, device=device))


def test_one_class_per_label_and_distinct_classes():
    _, _, episode = sample()
    classes = torch.cat([identity(episode.support.x)[0], identity(episode.query.x)[0]], dim=1)
    labels = torch.cat([episode.support.y, episode.query.y], dim=1)
    for c, y in zip(classes, labels, strict=True):
        assert len(set(zip(c.tolist(), y.tolist(), strict=True))) == 4 == len(c.unique())


def test_support_and_query_share_no_image():
    _, _, episode = sample(n=200)
    for support, query in zip(_numbers(episode.support.x), _numbers(episode.query.x), strict=True):
        assert len(set(support)) == 8 and len(set(query)) == 12
        assert not set(support) & set(query)


def _numbers(x):
    classes, examples = identity(x)
    return (100 * classes + examples).tolist()


def test_images_are_those_of_the_data_set():
    dataset, _, episode = sample(n=3)
    classes, numbers = identity(episode.query.x)
    rows = classes * 6 + numbers
    assert torch.equal((episode.query.x * 255).round().to(torch.uint8), dataset.images[rows])


def test_classes_and_examples_are_uniform():
    """12 classes over 3000 tasks of 4: each is drawn 1000 times, within five standard deviations."""
    _, _, episode = sample(n=3000)
    classes = identity(episode.support.x)[0][:, ::2].flatten().bincount(minlength=12)
    assert (classes - 1000).abs().max() < 5 * (3000 * (1 / 3) * (2 / 3)) ** 0.5
    numbers = identity(episode.support.x)[1].flatten().bincount(minlength=6)
    assert (numbers - 4000).abs().max() < 5 * (24000 * (1 / 6) * (5 / 6)) ** 0.5


def test_within_groups_all_classes_share_one_group():
    dataset, _, episode = sample(within_groups=True, n=300)
    groups = dataset.groups[identity(episode.support.x)[0]]
    assert (groups == groups[:, :1]).all()
    assert groups[:, 0].unique().tolist() == [0, 1, 2]
    assert (groups[:, 0].bincount() - 100).abs().max() < 45  # each group equally likely


def test_small_groups_are_left_out():
    dataset = images(classes=11, groups=3)  # groups of 4, 4 and 3 classes
    _, _, episode = sample(dataset=dataset, within_groups=True, n=100)
    assert dataset.groups[identity(episode.support.x)[0]].unique().tolist() == [0, 1]


def test_rotations_are_classes_of_their_own():
    dataset, tasks, episode = sample(rotations=True, ways=40, n=4)
    assert tasks.classes == 48
    x = (episode.support.x * 255).round().to(torch.uint8)  # (4, 80, 1, 8, 8)
    for t in range(4):
        found = set()
        for i in range(0, 80, 2):
            turns = [
                (r, row)
                for row in range(len(dataset.images))
                for r in range(4)
                if torch.equal(dataset.images[row].rot90(r, (-2, -1)), x[t, i])
            ]
            assert len(turns) == 1  # the image is one drawing, turned by a multiple of 90 degrees
            found.add((turns[0][0], int(dataset.labels[turns[0][1]])))
        assert len(found) == 40  # all classes of the task differ


def test_same_seed_same_episode(device):
    _, tasks, a = sample(seed=3, device=device)
    b = tasks.sample(50, tasks.generator(3))
    c = tasks.sample(50, tasks.generator(4))
    assert all(torch.equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True))
    assert not torch.equal(a.support.x, c.support.x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ways": 13}, "13 ways need as many classes, but random has 12"),
        ({"shots": 4}, "4 shots and 3 queries need 7 images of each class, but class 0 of random has 6"),
        ({"ways": 5, "within_groups": True}, "5 ways within one group: the largest group has 4 classes"),
        ({"ways": 0}, "ways must be a positive integer, got 0"),
        ({"shots": 1.5}, "shots must be a positive integer, got 1.5"),
    ],
)
def test_impossible_episodes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sample(**options)


def test_no_task_and_foreign_generator_are_refused():
    _, tasks, _ = sample()
    with pytest.raises(ValueError, match="at least one task, got n=0"):
        tasks.sample(0, tasks.generator(0))
    tasks.device = torch.device("meta")
    with pytest.raises(ValueError, match="the generator lives on cpu but the tasks on meta"):
        tasks.sample(1, torch.Generator())


def test_the_protocol_is_in_the_name():
    assert repr(sample(rotations=True)[1]) == (
        "FewShot(4-way 2-shot, 3 queries per class, random, 48 classes across groups, with rotations as classes)"
    )
