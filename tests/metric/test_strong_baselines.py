"""The baselines against their definitions, torch's own optimiser, and the demonstration that comes with Omniglot."""

import math

import pytest
import torch
import torch.nn.functional as F
from examples import classification, images
from torch import nn

from metabook import PrototypicalNetwork, Set, data
from metabook.episode import Episode
from metabook.learner import per_task_score
from metabook.metric.strong_baselines import (
    Baseline,
    ModifiedHausdorff,
    SimpleShot,
    ink_points,
    mean_feature,
    modified_hausdorff,
)
from metabook.networks import mlp

needs_omniglot = pytest.mark.skipif(
    not data.available("omniglot"), reason="needs Omniglot: set METABOOK_DATA, or fetch it"
)


def first_task(episode):
    return Set(episode.support.x[0], episode.support.y[0]), episode.query.x[0]


def drawings(tasks=2, ways=3, queries=2, side=28, seed=0, device="cpu", dtype=torch.float32):
    """Episodes of random images of ink, one shot."""
    generator = torch.Generator().manual_seed(seed)
    x = [torch.rand(tasks, ways * n, 1, side, side, generator=generator) for n in (1, queries)]
    y = [torch.arange(ways).repeat_interleave(n).expand(tasks, -1) for n in (1, queries)]
    return Episode(*(Set(a.to(device, dtype), b.to(device)) for a, b in zip(x, y, strict=True)))


def test_mean_feature_is_the_mean_over_all_images(device):
    dataset = images()
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 5)).to(device)
    expected = encoder(dataset.images.to(device).float() / 255).mean(0)
    for batch in (500, 7):
        torch.testing.assert_close(mean_feature(encoder, dataset, batch), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("transform", ["UN", "L2N", "CL2N"])
def test_simpleshot_by_a_loop(transform, device):
    """As in the authors' code: transform every feature, average by class, take the nearest mean."""
    episode = classification(tasks=3, ways=4, shots=3, device=device)
    encoder, mean = mlp([5, 8, 6]).double().to(device), torch.randn(6, dtype=torch.float64, device=device)
    logits = SimpleShot(encoder, 4, transform, mean)(episode)
    for t in range(3):
        z, q = encoder(episode.support.x[t]), encoder(episode.query.x[t])
        if transform == "CL2N":
            z, q = z - mean, q - mean
        if transform != "UN":
            z, q = (v / v.norm(dim=1, keepdim=True) for v in (z, q))
        centres = torch.stack([z[episode.support.y[t] == k].mean(0) for k in range(4)])
        torch.testing.assert_close(logits[t], -torch.cdist(q, centres).square())


def test_simpleshot_without_transform_is_the_nearest_prototype():
    episode, encoder = classification(), mlp([5, 4]).double()
    torch.testing.assert_close(SimpleShot(encoder, 3, "UN")(episode), PrototypicalNetwork(encoder, 3)(episode))


def test_scaling_all_features_changes_no_normalised_answer():
    episode, encoder = classification(), nn.Linear(5, 4, bias=False).double()
    before = SimpleShot(encoder, 3, "L2N")(episode)
    with torch.no_grad():
        encoder.weight *= 7
    torch.testing.assert_close(SimpleShot(encoder, 3, "L2N")(episode), before)


@pytest.mark.parametrize("cosine", [False, True])
def test_baseline_is_gradient_descent_of_torch_on_a_head(cosine, device):
    episode = classification(ways=3, shots=2, device=device)
    encoder = mlp([5, 8]).double().to(device)
    learner = Baseline(encoder, 3, features=8, cosine=cosine, lr=0.3, steps=5, scale=4.0).to(device)
    logits = learner(episode)
    for t in range(episode.tasks):
        z, q = encoder(episode.support.x[t]).detach(), encoder(episode.query.x[t]).detach()
        weight = learner.start.double().clone().requires_grad_()
        bias = torch.zeros(3, dtype=torch.float64, device=device, requires_grad=True)

        def head(v, weight=weight, bias=bias):
            if cosine:
                return 4 * F.cosine_similarity(v[:, None], weight, dim=-1)
            return v @ weight.T + bias

        optimizer = torch.optim.SGD([weight, bias], lr=0.3)
        for _ in range(5):
            optimizer.zero_grad()
            F.cross_entropy(head(z), episode.support.y[t]).backward()
            optimizer.step()
        torch.testing.assert_close(logits[t], head(q).detach())


@pytest.mark.parametrize("cosine", [False, True])
def test_baseline_with_more_ways_answers_as_with_the_exact_number(cosine):
    episode, encoder = classification(), mlp([5, 8]).double()
    exact, wide = (Baseline(encoder, ways, features=8, cosine=cosine) for ways in (3, 6))
    exact.start = wide.start[:3]
    logits = wide(episode)
    torch.testing.assert_close(logits[..., :3], exact(episode))
    assert (logits[..., 3:] == -torch.inf).all()


def test_scores_of_a_cosine_head_do_not_depend_on_the_length_of_a_feature():
    support, x = first_task(classification())
    learner = Baseline(nn.Identity(), 3, features=5, cosine=True)
    state = learner.adapt(support)
    torch.testing.assert_close(learner.predict(state, 9 * x), learner.predict(state, x))


def test_hausdorff_distance_by_hand():
    """(0, 0), (4, 0) against (0, 3): nearest distances 3 and 5, mean 4; the other way round 3."""
    a, b = torch.tensor([[0.0, 0.0], [4.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    assert modified_hausdorff(a, b) == 4
    assert modified_hausdorff(b, a) == 4
    assert modified_hausdorff(a, a) == 0


def test_points_are_inked_pixels_around_their_mean(device):
    image = torch.zeros(1, 4, 5, device=device)
    image[0, 1, 2], image[0, 3, 4], image[0, 0, 0] = 1, 0.6, 0.5
    expected = torch.tensor([[-1.0, -1.0], [1.0, 1.0]], dtype=torch.float64, device=device)
    assert torch.equal(ink_points(image), expected)
    assert len(ink_points(image, threshold=0.4)) == 3


def test_hausdorff_classifier_by_a_loop(device):
    """Drawings of more points than fit into one block of rows, and of different numbers."""
    episode = drawings(device=device)
    logits = ModifiedHausdorff(3)(episode)
    for t in range(2):
        for q in range(6):
            for k in range(3):
                pair = ink_points(episode.query.x[t, q]), ink_points(episode.support.x[t, k])
                expected = -modified_hausdorff(*pair).to(logits.dtype)
                torch.testing.assert_close(logits[t, q, k], expected, rtol=1e-5, atol=1e-6)


def test_moving_a_drawing_changes_no_distance():
    episode = drawings(ways=2)
    shifted = F.pad(episode.query.x, (3, 0, 0, 5))
    grown = F.pad(episode.support.x, (0, 3, 5, 0))
    moved = Episode(Set(grown, episode.support.y), Set(shifted, episode.query.y))
    torch.testing.assert_close(ModifiedHausdorff(2)(moved), ModifiedHausdorff(2)(episode))


@needs_omniglot
def test_first_official_run_gives_the_errors_of_the_demonstration():
    """Its script finds 9 errors in the first of the twenty runs (45 %); all of them take the chapter ten seconds."""
    runs = data.omniglot_oneshot_runs(105)
    first = Episode(*(Set(part.x[:1], part.y[:1]) for part in runs))
    score = per_task_score(ModifiedHausdorff(20)(first), first.query.y)
    assert score.item() == pytest.approx(11 / 20)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="transform must be one of UN, L2N, CL2N, got 'L2'"):
        SimpleShot(nn.Identity(), 3, "L2")
    with pytest.raises(ValueError, match="give mean=mean_feature"):
        SimpleShot(nn.Identity(), 3)
    with pytest.raises(ValueError, match="lr must be positive and finite, got nan"):
        Baseline(nn.Identity(), 3, features=4, lr=math.nan)
    with pytest.raises(ValueError, match="features must be a positive integer, got 0"):
        Baseline(nn.Identity(), 3, features=0)
    with pytest.raises(ValueError, match="no pixel has more ink than the threshold 0.5"):
        ink_points(torch.zeros(1, 4, 4))
