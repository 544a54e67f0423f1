"""Networks side by side against networks alone, the power law's interval by simulation, rotation against permuted
pixels, saliency against a linear model's weights, and the posterior of waves against brute force."""

import math

import pytest
import torch
import torch.nn.functional as F

from metabook import Set
from metabook.basics.small_data import (
    Ensemble,
    balanced_order,
    deletion,
    power_law,
    rank_correlation,
    rotate,
    saliency,
    sign_step,
    train,
    wave_posterior_mean,
)
from metabook.networks import mlp
from metabook.tasks import Sinusoids


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def doubles(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


def networks(runs, sizes):
    torch.manual_seed(0)
    return [mlp(sizes).double() for _ in range(runs)]


# networks side by side


def test_an_ensemble_answers_as_its_networks_do():
    alone = networks(3, [5, 8, 4])
    ensemble, x, own = Ensemble(alone), doubles(7, 5), doubles(3, 7, 5)
    assert len(ensemble) == 3
    torch.testing.assert_close(ensemble(x), torch.stack([one(x) for one in alone]))
    torch.testing.assert_close(ensemble.each(own), torch.stack([f(z) for f, z in zip(alone, own, strict=True)]))


@pytest.mark.parametrize("batch", [None, 4])
@pytest.mark.parametrize("kind", ["classes", "values"])
def test_training_side_by_side_is_training_alone(batch, kind):
    alone, x = networks(3, [5, 8, 4]), doubles(3, 10, 5)
    y = torch.arange(30).view(3, 10) % 4 if kind == "classes" else doubles(3, 10, 4, seed=1)
    together = train(alone, x, y, steps=20, lr=0.01, batch=batch, generator=generator(3))
    draws = generator(3)
    rows = [torch.arange(10).expand(3, 10) if batch is None else torch.randint(10, (3, batch), generator=draws)
            for _ in range(20)]  # fmt: skip
    for k, network in enumerate(alone):
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        for draw in rows:
            answer, target = network(x[k, draw[k]]), y[k, draw[k]]
            loss = F.cross_entropy(answer, target) if kind == "classes" else F.mse_loss(answer, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        torch.testing.assert_close(together(x[0])[k], network(x[0]), rtol=0, atol=1e-10)


def test_training_leaves_the_networks_it_was_given_as_they_are():
    alone = networks(2, [5, 4])
    before = [one[0].weight.clone() for one in alone]
    train(alone, doubles(2, 6, 5), torch.zeros(2, 6, dtype=torch.int64), steps=3)
    assert all(torch.equal(one[0].weight, weight) for one, weight in zip(alone, before, strict=True))


def test_what_cannot_be_trained_side_by_side_is_refused():
    with pytest.raises(ValueError, match="one shape, got 2 shapes"):
        Ensemble([mlp([5, 4]), mlp([5, 3])])
    with pytest.raises(ValueError, match="got 0 shapes"):
        Ensemble([])
    with pytest.raises(ValueError, match="2 networks need as many training sets"):
        train(networks(2, [5, 4]), doubles(3, 6, 5), torch.zeros(3, 6, dtype=torch.int64), steps=1)
    with pytest.raises(ValueError, match="steps"):
        train(networks(1, [5, 4]), doubles(1, 6, 5), torch.zeros(1, 6, dtype=torch.int64), steps=0)


def test_classes_take_turns_in_a_balanced_order():
    labels = torch.tensor([0] * 5 + [1] * 9 + [2] * 7)[torch.randperm(21, generator=generator())]
    order = balanced_order(labels, generator(1))
    assert sorted(order.tolist()) == list(range(21))
    for n in range(0, 16, 3):
        assert torch.bincount(labels[order[:n]], minlength=3).tolist() == [n // 3] * 3
    assert set(labels[order[15:19]].tolist()) == {1, 2}  # class 0 is used up
    assert not torch.equal(order, balanced_order(labels, generator(2)))


# the power law

SIZES = torch.tensor([10, 20, 40, 80, 160])


def test_a_power_law_is_recovered_exactly_where_there_is_no_noise():
    errors = (2.5 * SIZES.double() ** -0.7).expand(4, -1)
    law = power_law(SIZES, errors, generator())
    for value, truth in ((law.scale, 2.5), (law.slope, -0.7), (law.low, -0.7), (law.high, -0.7)):
        assert math.isclose(value, truth, rel_tol=1e-9)
    assert math.isclose(law(1000), 2.5 * 1000**-0.7, rel_tol=1e-9)


def test_the_interval_of_the_slope_covers_the_truth_at_its_nominal_rate():
    """400 data sets of 40 runs with binomial errors; the standard error of the rate is 0.011."""
    truth, covered = SIZES.double() ** -0.5, 0
    for seed in range(400):
        draws = generator(seed)
        errors = torch.binomial(torch.full((40, 5), 200.0).double(), truth.expand(40, 5), generator=draws) / 200
        law = power_law(SIZES, errors, draws, resamples=400)
        covered += law.low <= -0.5 <= law.high
    assert 0.91 <= covered / 400 <= 0.98


def test_a_power_law_says_what_is_wrong_with_its_data():
    with pytest.raises(ValueError, match="zero has no logarithm"):
        power_law(SIZES, torch.zeros(3, 5), generator())
    with pytest.raises(ValueError, match=r"got \(5,\) and \(3, 4\)"):
        power_law(SIZES, torch.ones(3, 4), generator())


# rotation


@pytest.mark.parametrize("size", [8, 5])
@pytest.mark.parametrize("turns", [1, 2, 3, -1])
def test_quarter_turns_move_pixels_and_mix_none(size, turns):
    images = doubles(3, size, size)
    torch.testing.assert_close(rotate(images, 90.0 * turns), images.rot90(turns, (1, 2)), rtol=0, atol=1e-12)


def test_there_and_back_is_nearly_nothing_for_a_smooth_picture():
    along = torch.linspace(-1, 1, 41, dtype=torch.float64)
    blob = torch.exp(-((along[:, None] - 0.2) ** 2 + (along[None] + 0.1) ** 2) / 0.1)[None]
    back = rotate(rotate(blob, 33.0), -33.0)
    assert (back - blob).abs().max() < 0.03
    assert (rotate(blob, 33.0) - blob).abs().max() > 0.2


def test_a_smooth_picture_is_sampled_where_the_angle_says():
    """A linear ramp is reproduced exactly by bilinear interpolation, away from the border."""
    along = torch.arange(9, dtype=torch.float64) - 4
    right, up = along.expand(9, 9), -along[:, None].expand(9, 9)
    angle = math.radians(25)
    # turning anticlockwise by t: the new picture at (right, up) is the old one at the point turned back
    expected = math.cos(angle) * right + math.sin(angle) * up
    torch.testing.assert_close(rotate(right[None], 25.0)[0, 2:7, 2:7], expected[2:7, 2:7])


def test_rotation_takes_an_angle_for_each_picture_and_differentiates_both():
    images, angles = doubles(3, 4, 4), torch.tensor([10.0, 20.0, -35.0], dtype=torch.float64)
    each = torch.stack([rotate(image[None], float(a))[0] for image, a in zip(images, angles, strict=True)])
    torch.testing.assert_close(rotate(images, angles), each)
    assert torch.autograd.gradcheck(rotate, (images.requires_grad_(), angles.requires_grad_()))


def test_only_square_pictures_are_turned():
    with pytest.raises(ValueError, match=r"square pictures .* got \(2, 4, 5\)"):
        rotate(torch.zeros(2, 4, 5), 30.0)


# what the pixels say


def test_the_saliency_of_a_linear_model_is_its_weights():
    model, x, y = mlp([6, 3]).double(), doubles(5, 6), torch.tensor([0, 1, 2, 1, 0])
    torch.testing.assert_close(saliency(model, x, y), model[0].weight[y].detach())


def test_saliency_agrees_with_finite_differences_for_every_network_of_an_ensemble():
    ensemble, x, y = Ensemble(networks(2, [6, 9, 3])), doubles(4, 6), torch.tensor([0, 1, 2, 1])
    found = saliency(ensemble.each, x.expand(2, 4, 6), y)
    step = 1e-6 * torch.eye(6, dtype=torch.float64)
    for pixel in range(6):
        score = [ensemble(x + sign * step[pixel]).gather(-1, y.expand(2, 4)[..., None])[..., 0] for sign in (1, -1)]
        torch.testing.assert_close(found[..., pixel], (score[0] - score[1]).detach() / 2e-6, rtol=1e-5, atol=1e-7)


def test_the_adversary_of_a_linear_model_of_two_classes_moves_against_the_difference_of_its_weights():
    model, y = mlp([6, 2]).double(), torch.tensor([0, 1, 1])
    x = 0.5 + 0.01 * doubles(3, 6)
    weights = model[0].weight.detach()
    against = weights[1 - y] - weights[y]
    torch.testing.assert_close(sign_step(model, x, y, 0.1), x + 0.1 * against.sign())
    assert sign_step(model, x, y, 3.0).aminmax() == (0, 1)


def test_deletion_wipes_out_the_first_pixels_of_the_order():
    seen = []

    def network(x):
        seen.append(x)
        return x[..., :2]

    x, y = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]]), torch.tensor([0, 1])
    order = torch.tensor([[0, 2, 1], [2, 1, 0]])
    hits = deletion(network, x, y, order, [0, 1, 2])
    assert torch.equal(seen[1], torch.tensor([[0.0, 2.0, 1.0], [1.0, 2.0, 0.0]]))
    assert torch.equal(seen[2], torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, 0.0]]))
    assert hits.tolist() == [[True, True], [False, True], [False, False]]


def test_rank_correlation_is_spearmans():
    stats = pytest.importorskip("scipy.stats")
    a, b = doubles(4, 30), doubles(4, 30, seed=1) + doubles(4, 30)
    expected = [stats.spearmanr(*pair).statistic for pair in zip(a.numpy(), b.numpy(), strict=True)]
    torch.testing.assert_close(rank_correlation(a, b), torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(rank_correlation(a, a.exp()), torch.ones(4).double())
    torch.testing.assert_close(rank_correlation(a, -a), -torch.ones(4).double())


# waves


def test_the_posterior_mean_of_waves_agrees_with_weighted_draws_from_the_prior():
    tasks = Sinusoids(shots=2, queries=4, noise=0.5)
    episode = tasks.sample(3, generator())
    found = wave_posterior_mean(tasks, episode.support, episode.query.x, grid=200)
    draws = tasks.waves(400_000, generator(1))
    for points, asked, answer in zip(zip(*episode.support, strict=True), episode.query.x, found, strict=True):
        misfit = (tasks.values(draws, points[0]) - points[1]).square().sum((1, 2))
        weight = torch.softmax(-misfit / (2 * 0.5**2), 0)
        brute = (weight[:, None, None] * tasks.values(draws, asked)).sum(0)
        torch.testing.assert_close(answer, brute, rtol=0, atol=0.05)


def test_no_point_leaves_the_mean_of_all_waves():
    tasks, x = Sinusoids(noise=0.3), torch.linspace(-5, 5, 9)[None, :, None]
    nothing = Set(torch.zeros(1, 0, 1), torch.zeros(1, 0, 1))
    # E[A] E[sin(x - p)] = 2.55 * (-2 / pi) cos(x)
    torch.testing.assert_close(wave_posterior_mean(tasks, nothing, x), -2.55 * 2 / math.pi * x.cos(), rtol=0, atol=2e-3)


def test_the_posterior_mean_has_the_smallest_error():
    tasks = Sinusoids(shots=3, queries=20, noise=0.3)
    draw = generator()
    waves = tasks.waves(200, draw)
    episode = tasks.episode(waves, draw)
    truth = tasks.values(waves, episode.query.x)

    def error(noise):
        assumed = Sinusoids(noise=noise)
        return (wave_posterior_mean(assumed, episode.support, episode.query.x) - truth).square().mean()

    assert error(0.3) < min(error(0.9), error(2.0))


def test_waves_without_noise_have_no_posterior_on_a_grid():
    with pytest.raises(ValueError, match="noise above 0"):
        wave_posterior_mean(Sinusoids(), Set(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1)), torch.zeros(1, 1, 1))
