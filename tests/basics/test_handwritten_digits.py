"""Dropout and its mean, shifts against a loop, the training loop against one written out, and what it refuses."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from examples import images as random_images
from torch import nn

from metabook.basics.handwritten_digits import (
    Dropout,
    accuracy,
    confusion,
    convolutional_network,
    dense_network,
    fit,
    predict,
    shifted,
)


def easy(n=60, seed=0):
    """Images of 28x28 pixels whose class is the quarter that holds ink."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (n,), generator=generator)
    images = 60 * torch.rand(n, 1, 28, 28, generator=generator)
    for image, k in zip(images, labels.tolist(), strict=True):
        image[0, 14 * (k // 2) :, 14 * (k % 2) :][:14, :14] += 120
    return replace(
        random_images(classes=4, per_class=1, groups=1, size=28),
        images=images.to(torch.uint8), labels=labels,
    )  # fmt: skip


def test_dropout_keeps_the_mean_and_zeroes_the_stated_share():
    h = torch.ones(200_000, dtype=torch.float64)
    dropped = Dropout(0.3, torch.Generator().manual_seed(0))(h)
    assert set(dropped.unique().tolist()) == {0.0, 1 / 0.7}
    share = (dropped == 0).double().mean().item()
    assert abs(share - 0.3) < 5 * (0.3 * 0.7 / len(h)) ** 0.5


def test_dropout_of_the_same_generator_is_the_same_and_evaluation_drops_nothing():
    h = torch.randn(4, 5)
    one, two = (Dropout(0.5, torch.Generator().manual_seed(3))(h) for _ in range(2))
    assert torch.equal(one, two) and not torch.equal(one, h)
    assert Dropout(0.5).eval()(h) is h and Dropout(0.0)(h) is h


def test_dropout_matches_torch_in_distribution():
    """Mean and variance of a unit, against torch's own."""
    torch.manual_seed(0)
    h = torch.full((100_000,), 2.0, dtype=torch.float64)
    ours, theirs = Dropout(0.4)(h), F.dropout(h, 0.4)
    assert abs(ours.mean() - theirs.mean()) < 0.03 and abs(ours.var() - theirs.var()) < 0.03


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5])
def test_a_probability_of_dropout_lies_below_one(p):
    with pytest.raises(ValueError, match="0 <= p < 1, got"):
        Dropout(p)


def test_the_networks_have_the_shapes_and_sizes_that_they_say(device):
    x = torch.zeros(3, 1, 28, 28, device=device)
    dense, conv = dense_network().to(device), convolutional_network().to(device)
    assert dense(x).shape == conv(x).shape == (3, 10)
    assert sum(p.numel() for p in dense.parameters()) == 784 * 128 + 128 + 128 * 10 + 10 == 101_770
    weights = 16 * 9 + 16 + 32 * 16 * 9 + 32 + 32 * 49 * 128 + 128 + 128 * 10 + 10
    assert sum(p.numel() for p in conv.parameters()) == weights


def test_pooling_before_the_relu_changes_nothing():
    x = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(F.max_pool2d(x, 2).relu(), F.max_pool2d(x.relu(), 2))


def test_a_shift_moves_each_image_on_its_own_and_lets_paper_in(device):
    """Every result is one of the nine moved versions, made here by hand, and all of them occur."""
    x = torch.rand(200, 2, 5, 6, device=device)
    moved = shifted(x, 1, torch.Generator(device).manual_seed(0))
    padded, seen = F.pad(x, (1, 1, 1, 1)), set()
    for i in range(len(x)):
        matches = [
            (r, c) for r in range(3) for c in range(3) if torch.equal(moved[i], padded[i, :, r : r + 5, c : c + 6])
        ]
        assert len(matches) == 1
        seen |= set(matches)
    assert len(seen) == 9
    assert torch.equal(shifted(x, 0, torch.Generator(device)), x)


@pytest.mark.parametrize("most", [-1, 3])
def test_a_shift_out_of_the_frame_is_refused(most):
    with pytest.raises(ValueError, match="less than half a side, got"):
        shifted(torch.zeros(1, 1, 5, 6), most, torch.Generator())


def written_out(network, data, epochs, batch, lr, seed, decay):
    """Adam with decoupled weight decay, a half cosine, and its own order of the images."""
    generator = torch.Generator().manual_seed(seed)
    steps, t = epochs * -(-len(data) // batch), 0
    moments = {p: (torch.zeros_like(p), torch.zeros_like(p)) for p in network.parameters()}
    for _ in range(epochs):
        for rows in torch.randperm(len(data), generator=generator).split(batch):
            rate = lr * (1 + torch.cos(torch.tensor(torch.pi * t / steps)).item()) / 2
            t += 1
            loss = F.cross_entropy(network(data.images[rows].float() / 255), data.labels[rows])
            gradients = torch.autograd.grad(loss, list(moments))
            with torch.no_grad():
                for (p, (m, v)), g in zip(moments.items(), gradients, strict=True):
                    m.lerp_(g, 0.1)
                    v.lerp_(g * g, 0.001)
                    step = (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
                    p.copy_(p * (1 - rate * decay) - rate * step)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_fit_is_the_loop_written_out(decay):
    data, ends = easy(), []
    for train in (
        lambda net: fit(net, data, epochs=2, batch=25, lr=1e-2, seed=1, weight_decay=decay),
        lambda net: written_out(net, data, 2, 25, 1e-2, 1, decay),
    ):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(784, 4))
        train(network)
        ends.append(nn.utils.parameters_to_vector(network.parameters()))
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-6)


def test_fit_learns_and_reports_what_happened(device):
    torch.manual_seed(0)
    network, data = dense_network(hidden=16).to(device), easy()
    done = fit(network, data, epochs=6, batch=10, lr=3e-3, validation=easy(seed=1), shift=1)
    assert len(done.loss) == len(done.accuracy) == len(done.validation) == 6
    assert done.loss[-1] < done.loss[0] and done.validation[-1] > 0.95
    assert done.validation[-1] == accuracy(network, easy(seed=1))


def test_the_same_seed_gives_the_same_network():
    data, ends = easy(), []
    for seed in (0, 0, 1):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(784, 4))
        fit(network, data, epochs=1, batch=20, seed=seed, shift=2)
        ends.append(network[1].weight.detach())
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])


def test_early_stopping_ends_with_the_best_epoch():
    """A rate that ruins the network at once: the best epoch is kept all the same."""
    torch.manual_seed(0)
    network, data, watch = nn.Sequential(nn.Flatten(), nn.Linear(784, 4)), easy(20), easy(40, seed=2)
    done = fit(network, data, epochs=8, batch=5, lr=0.3, validation=watch, keep_best=True)
    assert accuracy(network, watch) == max(done.validation)


def test_label_smoothing_keeps_the_network_from_certainty():
    sure = []
    for smoothing in (0.0, 0.4):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(784, 4))
        fit(network, easy(), epochs=30, batch=20, lr=3e-3, label_smoothing=smoothing)
        sure.append(predict(network, easy().images).softmax(-1).amax(-1).mean())
    assert sure[1] < sure[0] - 0.1


def test_what_fit_refuses():
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 4))
    with pytest.raises(ValueError, match="give validation="):
        fit(network, easy(), epochs=1, keep_best=True)
    with pytest.raises(ValueError, match="epochs must be a positive integer, got 0"):
        fit(network, easy(), epochs=0)


def test_predict_evaluates_in_parts_and_leaves_the_mode_alone():
    network, data = dense_network(hidden=8), easy()
    whole, parts = predict(network, data.images), predict(network, data.images, batch=7)
    torch.testing.assert_close(whole, parts)
    assert network.training and torch.equal(predict(network, data.images), whole), "dropout is off"


def test_a_confusion_matrix_counts_every_image_once():
    labels, predictions = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([0, 1, 1, 2, 0, 0])
    assert confusion(predictions, labels, 3).tolist() == [[1, 1, 0], [0, 1, 0], [2, 0, 1]]
    with pytest.raises(ValueError, match="differ in shape"):
        confusion(predictions[:2], labels, 3)
