"""Calibration error against closed forms, temperature against a search, AUROC against counting and scikit-learn."""

import pytest
import torch
import torch.nn.functional as F

from metabook.calibration import auroc, expected_calibration_error, fit_temperature, reliability


def answers(n, truth, seed=0):
    """Confidences uniform in 0.2..1, and answers that are right with the probability `truth(confidence)`."""
    generator = torch.Generator().manual_seed(seed)
    confidence = 0.2 + 0.8 * torch.rand(n, generator=generator, dtype=torch.float64)
    return confidence, torch.rand(n, generator=generator, dtype=torch.float64) < truth(confidence)


def test_the_error_of_calibrated_answers_falls_with_the_root_of_their_number():
    """What is left is chance: sum_b sqrt(2 / pi * n_b * variance) / n, in expectation."""
    for n in (2_000, 200_000):
        confidence, right = answers(n, lambda c: c)
        per_bin = reliability(confidence, right).count
        spread = (confidence * (1 - confidence)).mean()
        chance = ((2 / torch.pi * per_bin * spread).sqrt().sum() / n).item()
        assert 0.5 * chance < expected_calibration_error(confidence, right) < 1.6 * chance


@pytest.mark.parametrize("shift", [0.05, 0.2])
def test_answers_that_are_right_less_often_than_they_say_have_the_error_of_the_difference(shift):
    confidence, right = answers(400_000, lambda c: c - shift)
    torch.testing.assert_close(
        expected_calibration_error(confidence, right), torch.tensor(shift).double(), rtol=0, atol=0.004
    )


def test_errors_of_opposite_sign_do_not_cancel_between_bins_but_do_within_one():
    confidence = torch.tensor([0.9, 0.9, 0.5, 0.5])
    right = torch.tensor([0.0, 1.0, 1.0, 1.0])  # 0.4 too sure, 0.5 not sure enough
    torch.testing.assert_close(expected_calibration_error(confidence, right), torch.tensor(0.45).double())
    torch.testing.assert_close(expected_calibration_error(confidence, right, bins=1), torch.tensor(0.05).double())


def test_an_answer_lies_in_the_bin_whose_upper_edge_it_reaches():
    confidence = torch.tensor([0.0, 0.25, 0.26, 1.0])
    assert reliability(confidence, torch.ones(4), bins=4).count.tolist() == [2, 1, 0, 1]


def test_sums_of_tasks_add_up_to_the_sums_of_all():
    confidence, right = answers(600, lambda c: c)
    tasks = reliability(confidence.view(20, 30), right.view(20, 30))
    for ours, theirs in zip(tasks.pooled(), reliability(confidence, right), strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(tasks.ece()[3], expected_calibration_error(confidence[90:120], right[90:120]))


def test_resampled_errors_scatter_around_the_error_as_new_tasks_do():
    def tasks(seed):
        confidence, right = answers(20_000, lambda c: c - 0.1, seed)
        return reliability(confidence.view(200, 100), right.view(200, 100))

    resampled = tasks(0).resampled_ece(400, torch.Generator().manual_seed(0))
    fresh = torch.stack([tasks(seed).pooled().ece() for seed in range(1, 60)])
    assert resampled.shape == (400,)
    assert 0.7 < resampled.std() / fresh.std() < 1.4
    again = tasks(0).resampled_ece(400, torch.Generator().manual_seed(0))
    assert torch.equal(resampled, again)


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_the_temperature_undoes_a_scale(scale):
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(50_000, 4, generator=generator, dtype=torch.float64)
    y = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    assert abs(fit_temperature(scale * logits, y) / scale - 1) < 0.03


def test_the_temperature_is_where_the_loss_is_lowest():
    generator = torch.Generator().manual_seed(1)
    logits, y = torch.randn(3, 40, 5, generator=generator), torch.randint(5, (3, 40), generator=generator)
    logits = logits + F.one_hot(y, 5)

    def loss(temperature):
        return F.cross_entropy(logits.double().flatten(0, 1) / temperature, y.flatten())

    best = fit_temperature(logits, y)
    assert loss(best) < min(loss(0.999 * best), loss(1.001 * best))


def test_auroc_counts_the_pairs_in_the_right_order():
    ordinary, strange = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0])
    torch.testing.assert_close(auroc(ordinary, strange).mean, torch.tensor((1.5 + 3) / 6).double())
    torch.testing.assert_close(auroc(strange, ordinary).mean, torch.tensor(1.5 / 6).double())
    torch.testing.assert_close(auroc(ordinary, ordinary.exp()).mean, auroc(ordinary.exp(), ordinary.exp().exp()).mean)


def test_auroc_is_that_of_scikit_learn_and_its_interval_covers():
    metrics = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(0)
    covered, truth = [], torch.special.ndtr(torch.tensor(1 / 2**0.5)).item()  # of N(1, 1) against N(0, 1)
    for _ in range(300):
        a, b = torch.randn(40, generator=generator), 1 + torch.randn(50, generator=generator)
        found = auroc(a, b)
        covered.append(found.covers(truth))
    labels = torch.cat([torch.zeros(40), torch.ones(50)])
    assert abs(found.mean - metrics.roc_auc_score(labels, torch.cat([a, b]))) < 1e-9
    assert 0.9 < torch.stack(covered).double().mean() < 0.985


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: reliability(torch.ones(3), torch.ones(2)), r"confidence \(3,\) and correct \(2,\)"),
        (lambda: reliability(torch.ones(0), torch.ones(0)), "at least one answer"),
        (lambda: reliability(torch.tensor([1.5]), torch.ones(1)), "lie in 0..1, met values from 1.5"),
        (lambda: reliability(torch.tensor([float("nan")]), torch.ones(1)), "lie in 0..1"),
        (lambda: reliability(torch.ones(1), torch.ones(1), bins=0), "bins must be a positive integer"),
        (
            lambda: reliability(torch.ones(3), torch.ones(3)).resampled_ece(5, torch.Generator()),
            r"shape \(tasks, bins\), got \(15,\)",
        ),
        (lambda: fit_temperature(torch.zeros(3, 2), torch.zeros(2).long()), r"shape \(2,\) of y"),
        (lambda: fit_temperature(torch.tensor([[0.0, -torch.inf]]), torch.zeros(1).long()), "must be finite"),
        (lambda: auroc(torch.zeros(1), torch.zeros(5)), "at least two ordinary and two strange"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
