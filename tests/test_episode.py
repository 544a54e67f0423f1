"""Malformed episodes are refused with the values met; good ones split and move."""

import pytest
import torch
from examples import classification, regression

from metabook import Episode, Set
from metabook.episode import check_episode


def replaced(episode, part, **fields):
    return episode._replace(**{part: getattr(episode, part)._replace(**fields)})


def test_good_episodes_pass():
    check_episode(classification(), ways=3)
    check_episode(regression())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: replaced(e, "support", y=e.support.y + 1), "support.y must lie in 0..2 .* from 1 to 3"),
        (lambda e: replaced(e, "query", y=e.query.y - 1), "query.y must lie in 0..2 .* from -1 to 1"),
        (
            lambda e: replaced(e, "support", x=e.support.x[:, :0], y=e.support.y[:, :0]),
            r"support is empty.*\(3, 0, 5\)",
        ),
        (lambda e: Episode(*(Set(p.x[:0], p.y[:0]) for p in e)), "support is empty"),
        (lambda e: replaced(e, "support", y=e.support.y[:, :2]), r"got y \(3, 2\) for x \(3, 6, 5\)"),
        (lambda e: replaced(e, "query", x=e.query.x[..., :4]), r"different features: \(5,\) and \(4,\)"),
        (lambda e: Episode(e.support, Set(*(t[:2] for t in e.query))), "number of tasks .* 3 and 2"),
        (
            lambda e: replaced(e, "support", x=e.support.x.long()),
            "support.x must be floating point, got torch.int64",
        ),
        (lambda e: replaced(e, "support", y=e.support.y.int()), "support.y must be int64, got torch.int32"),
        (
            lambda e: replaced(e, "query", y=e.query.y[..., None]),
            r"need shape \(tasks, examples\), got \(3, 6, 1\)",
        ),
        (
            lambda e: replaced(e, "query", y=e.query.y.double()),
            r"query.y holds values \(torch.float64\), but the learner needs int64 labels of 3 classes",
        ),
        (
            lambda e: replaced(e, "query", x=e.query.x.float()),
            "different dtypes: x torch.float64 and torch.float32",
        ),
        (
            lambda e: replaced(e, "support", x=e.support.x[:, :, 0]),
            r"needs shape \(tasks, examples, \*features\)",
        ),
        (lambda e: replaced(e, "query", x=e.query.x.to("meta")), "share one device, met cpu, meta"),
    ],
)
def test_bad_episodes_are_refused_with_the_values_met(change, message):
    with pytest.raises(ValueError, match=message):
        check_episode(change(classification()), ways=3)


def test_learner_elsewhere_is_refused():
    with pytest.raises(ValueError, match="share one device, met cpu, meta"):
        check_episode(classification(), device=torch.device("meta"))


def test_split_loses_no_task():
    episode = classification(tasks=5)
    parts = episode.split(2)
    assert [part.tasks for part in parts] == [2, 2, 1]
    assert torch.equal(torch.cat([part.query.x for part in parts]), episode.query.x)
    assert torch.equal(torch.cat([part.support.y for part in parts]), episode.support.y)
    with pytest.raises(ValueError, match="at least one task per part, got 0"):
        episode.split(0)


def test_to_keeps_labels_integer(device):
    moved = classification().to(device, torch.float32)
    assert moved.support.x.dtype == torch.float32 and moved.support.y.dtype == torch.int64
    assert moved.query.y.device.type == device.type


def test_values_without_a_dimension_of_outputs_are_refused():
    episode = classification()
    values = Episode(*(Set(part.x, part.y.double()) for part in episode))
    with pytest.raises(ValueError, match=r"need shape \(tasks, examples, outputs\), got \(3, 6\)"):
        check_episode(values)
