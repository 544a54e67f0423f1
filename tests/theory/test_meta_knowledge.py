"""Tasks as vectors and as a graph: Fisher information against its definition, coupled models against their limits."""

import pytest
import torch
from torch import nn

from metabook.networks import mlp
from metabook.theory.meta_knowledge import (
    fisher_embedding,
    fuse,
    graph_ridge,
    laplacian,
    propagate,
    similarity,
    softmax_fisher,
)


def doubles(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# Fisher information


def test_the_closed_form_is_the_definition():
    probe, x = nn.Linear(5, 3, bias=False).double(), doubles(20, 5)
    expected = torch.zeros(3, 5).double()
    for row in x:
        for k in range(3):
            log_p = (probe.weight @ row).log_softmax(-1)
            slope = torch.autograd.grad(log_p[k], probe.weight)[0]
            expected += log_p[k].exp().detach() * slope.square() / len(x)
    torch.testing.assert_close(softmax_fisher(x, probe.weight.detach()), expected)
    torch.testing.assert_close(fisher_embedding(probe, x), expected.flatten())


def test_it_is_the_curvature_of_the_divergence():
    """Half of the second derivative of KL(p_0 || p_theta) at theta_0, here by finite differences."""
    probe, x = mlp([4, 5, 3]).double(), doubles(6, 4)
    diagonal, names = fisher_embedding(probe, x), dict(probe.named_parameters())
    log_p = probe(x).log_softmax(-1).detach()
    width, place = 1e-4, 0
    for p in names.values():
        flat = p.data.flatten()
        values = []
        for step in (width, -width):
            flat[0] += step
            p.data.copy_(flat.view_as(p))
            values.append((log_p.exp() * (log_p - probe(x).log_softmax(-1).detach())).sum(-1).mean())
            flat[0] -= step
            p.data.copy_(flat.view_as(p))
        curvature = (values[0] + values[1]) / width**2
        torch.testing.assert_close(curvature, diagonal[place], rtol=1e-3, atol=1e-6)
        place += p.numel()
    assert place == len(diagonal)


def test_the_empirical_fisher_has_the_squared_gradients_of_the_labels():
    probe, x, y = mlp([4, 5, 3]).double(), doubles(6, 4), torch.randint(3, (6,))
    expected = 0
    for row, label in zip(x, y, strict=True):
        loss = nn.functional.cross_entropy(probe(row[None]), label[None])
        expected = expected + torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(probe.parameters()))]) ** 2
    torch.testing.assert_close(fisher_embedding(probe, x, y), expected / 6)
    assert (fisher_embedding(probe, x) - expected / 6).abs().max() > 1e-3


def test_similar_is_symmetric_and_one_for_equal_embeddings():
    a, b = doubles(7).square(), doubles(7).square()
    torch.testing.assert_close(similarity(a, b), similarity(b, a))
    torch.testing.assert_close(similarity(a, a), torch.ones(()).double())
    assert similarity(a, b) < 1
    padded = [torch.cat([t, torch.zeros(3).double()]) for t in (a, b)]
    torch.testing.assert_close(similarity(*padded), similarity(a, b))


# fusion


def test_fusion_lies_between_the_nearest_and_the_mean():
    weights, similarities = doubles(5, 3, 2), doubles(4, 5)
    torch.testing.assert_close(fuse(weights, similarities, 1e-6), weights[similarities.argmax(-1)])
    torch.testing.assert_close(fuse(weights, similarities, 1e9), weights.mean(0).expand(4, 3, 2), rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="temperature must be positive"):
        fuse(weights, similarities, 0.0)


# graphs


def ring(n):
    steps = torch.roll(torch.eye(n, dtype=torch.float64), 1, 0)
    return steps + steps.T


def test_the_laplacian_measures_differences():
    edges, w = ring(5), doubles(5)
    pairs = (edges * (w[:, None] - w).square()).sum() / 2
    torch.testing.assert_close(w @ laplacian(edges) @ w, pairs)
    with pytest.raises(ValueError, match="symmetric"):
        laplacian(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))


def test_the_models_are_a_minimum():
    x, y, edges = doubles(4, 3, 5), doubles(4, 3, 2), ring(4)
    w = graph_ridge(x, y, edges, 0.7, 0.1).requires_grad_()
    fits = (y - x @ w).square().sum(-1).mean(-1).sum() + 0.1 * w.square().sum()
    apart = (edges[:, :, None, None] * (w[:, None] - w).square()).sum() / 2
    slope = torch.autograd.grad(fits + 0.7 * apart, w)[0]
    torch.testing.assert_close(slope, torch.zeros_like(slope))


def test_no_coupling_is_every_task_alone_and_much_is_all_pooled():
    x, y, edges = doubles(4, 3, 5), doubles(4, 3, 2), ring(4)
    eye = 0.1 * torch.eye(5).double()
    alone = torch.linalg.solve(x.mT @ x / 3 + eye, x.mT @ y / 3)
    torch.testing.assert_close(graph_ridge(x, y, edges, 0.0, 0.1), alone)
    pooled = torch.linalg.solve((x.mT @ x / 3).mean(0) + eye, (x.mT @ y / 3).mean(0))
    torch.testing.assert_close(graph_ridge(x, y, edges, 1e9, 0.1), pooled.expand(4, 5, 2), rtol=1e-5, atol=1e-6)


def test_messages_arrive_at_the_solution():
    x, y, edges = doubles(6, 3, 4), doubles(6, 3, 1), ring(6)
    exact = graph_ridge(x, y, edges, 0.5, 0.3)
    errors = [(propagate(x, y, edges, 0.5, 0.3, rounds) - exact).abs().max() for rounds in (1, 5, 200)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-10
    with pytest.raises(ValueError, match="ridge positive"):
        graph_ridge(x, y, edges, 0.5, 0.0)
