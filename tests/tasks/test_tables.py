"""Tables as tasks: the parts of a split, the unit of the loss, the meta-features."""

import math

import pytest
import torch
import torch.nn.functional as F
from examples import table

from metabook.tasks.tables import meta_features, relative, split


def test_the_class_frequencies_have_the_relative_loss_one():
    x, y = table(rows=400)
    splits = split(x, y, seeds=3)
    share = F.one_hot(splits.train_y, 3).double().mean(1)
    torch.testing.assert_close(splits.entropy, -(share * share.log()).sum(-1))
    loss = torch.stack([2 * splits.entropy, splits.entropy, splits.entropy / 4])
    torch.testing.assert_close(relative(loss, splits), torch.tensor([1, 1, 0.25]).double()[:, None].expand(3, 3))


def test_the_parts_of_a_split_share_no_row_and_folds_no_test_row(device):
    rows = torch.arange(83.0, device=device)[:, None]
    y = torch.arange(83, device=device) % 2
    seen = []
    for fold in range(4):
        splits = split(rows, y, fold, seeds=3)
        assert splits.train_x.mean(1).abs().max() < 1e-5
        assert (splits.train_x.square().mean(1) - 1).abs().max() < 1e-5
        # a linear column keeps its order, so each row can be told by it
        for s in range(3):
            parts = torch.cat([splits.train_x[s], splits.validation_x[s], splits.test_x[s]])
            assert len(parts) == 83 and len(parts.unique()) == 83
        seen.append(splits.test_y[0].numel())
    assert seen == [20] * 4
    tests = [split(rows, torch.arange(83, device=device), fold, seeds=1).test_y[0] for fold in range(4)]
    assert len(torch.cat(tests).unique()) == 80


def test_missing_values_become_the_mean_and_constant_columns_zero():
    x, y = table(rows=40)
    x[:, 1], x[3, 0] = 7.0, torch.nan
    splits = split(x, y, seeds=4)
    parts = torch.cat([splits.train_x, splits.validation_x, splits.test_x], dim=1)
    assert parts.isfinite().all() and (parts[..., 1] == 0).all()
    assert ((parts[..., 0] == 0).sum(1) == 1).all()


def test_at_most_so_many_rows_are_used():
    splits = split(*table(rows=300), seeds=2, rows=100)
    assert splits.train_x.shape[1] + splits.validation_x.shape[1] + splits.test_x.shape[1] == 100


def test_meta_features_of_a_table_made_for_it():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(400) % 4
    x = torch.stack([y >= 2, y % 2 == 1, torch.rand(400, generator=generator) > 0.5], 1).double()
    x = torch.cat([x, x[:, :1] * 3 - 1], dim=1)  # the first column again
    features = meta_features(split(x, y, seeds=2))
    assert features["log rows"] == pytest.approx(math.log(200)) and features["log classes"] == math.log(4)
    assert features["binary columns"] == 1 and features["imbalance"] < 0.01
    assert features["nearest-neighbour error"] == 0 and features["linear error"] == 0
    assert features["first eigenvalue"] == pytest.approx(0.5, abs=0.05)  # 2 of 4
    assert features["effective rank"] == pytest.approx(16 / 6 / 4, abs=0.05)  # eigenvalues 2, 1, 1, 0


def test_what_cannot_be_split_is_refused():
    x, y = table()
    with pytest.raises(ValueError, match="fold must be 0, 1, 2 or 3, got 4"):
        split(x, y, fold=4)
    with pytest.raises(ValueError, match="has 11 rows; at least 12"):
        split(x[:11], y[:11])
