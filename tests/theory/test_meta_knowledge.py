"""The Fisher information against closed forms and Hessians, transfer and evidence against Gaussian conditioning, and
propagation against its objective, its limits and the posterior of a Gaussian field."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import MultivariateNormal
from torch.func import functional_call, grad, hessian, vmap

from metabook.networks import mlp
from metabook.theory import meta_knowledge as mk


def doubles(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def network(sizes, seed=0):
    torch.manual_seed(seed)
    return mlp(sizes).double()


def close(a, b, tolerance=1e-9):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# Fisher information


def test_the_fisher_of_logistic_regression_is_its_closed_form_and_the_hessian_of_its_loss(device):
    model = nn.Linear(5, 3).double().to(device)
    x, y = doubles(40, 5).to(device), torch.randint(3, (40,), device=device)
    fisher = mk.fisher_diagonal(model, x)
    p = model(x).softmax(-1)
    variance = (p * (1 - p)).detach()
    close(fisher["weight"], (variance.T @ x.square()) / 40)
    close(fisher["bias"], variance.mean(0))

    def loss(weight):
        return F.cross_entropy(x @ weight.T + model.bias.detach(), y)

    curvature = hessian(loss)(model.weight.detach()).reshape(15, 15).diagonal().view(3, 5)
    close(fisher["weight"], curvature)


def test_the_expectation_is_over_labels_of_the_model():
    model, x = network([4, 6, 3]), doubles(10, 4)
    weights = {name: p.detach() for name, p in model.named_parameters()}

    def log_p(weights, one, label):
        return functional_call(model, weights, (one[None],))[0].log_softmax(-1)[label]

    p, expected = model(x).softmax(-1).detach(), {name: torch.zeros_like(p) for name, p in weights.items()}
    for i in range(10):
        for label in range(3):
            for name, slope in grad(log_p)(weights, x[i], label).items():
                expected[name] += p[i, label] * slope.square() / 10
    for name, fisher in mk.fisher_diagonal(model, x).items():
        close(fisher, expected[name])


def test_the_empirical_fisher_takes_the_labels_given():
    model, x, y = network([4, 6, 3]), doubles(10, 4), torch.arange(10) % 3
    weights = {name: p.detach() for name, p in model.named_parameters()}

    def loss(weights, one, label):
        return F.cross_entropy(functional_call(model, weights, (one[None],)), label[None])

    slopes = vmap(grad(loss), (None, 0, 0))(weights, x, y)
    for name, fisher in mk.fisher_diagonal(model, x, y).items():
        close(fisher, slopes[name].square().mean(0))
        assert (fisher - mk.fisher_diagonal(model, x)[name]).abs().max() > 1e-3


def test_averaged_over_labels_drawn_from_the_model_the_empirical_fisher_is_the_fisher():
    model, x = network([4, 6, 3]), doubles(5, 4).repeat(20_000, 1)
    y = torch.multinomial(model(x).softmax(-1), 1, generator=torch.Generator().manual_seed(0))[:, 0]
    for name, fisher in mk.fisher_diagonal(model, x, y).items():
        torch.testing.assert_close(fisher, mk.fisher_diagonal(model, x[:5])[name], rtol=0.06, atol=2e-4)


def test_only_the_parameters_asked_for_are_answered():
    model, x = network([4, 6, 3]), doubles(7, 4)
    some = {"0.weight": model[0].weight}
    assert list(mk.fisher_diagonal(model, x, parameters=some)) == ["0.weight"]
    close(mk.fisher_diagonal(model, x, parameters=some)["0.weight"], mk.fisher_diagonal(model, x)["0.weight"])


def test_the_logistic_head_is_at_the_minimum_of_its_objective():
    z, y = doubles(30, 6), torch.arange(30) % 4
    weights = mk.logistic_head(z, y, 4, penalty=0.01)
    slope = grad(lambda w: F.cross_entropy(z @ w.T, y) + 0.005 * w.square().sum())(weights)
    close(slope, torch.zeros_like(slope), 1e-10)
    close(mk.logistic_head(z.repeat(3, 1), y.repeat(3), 4, penalty=0.01), weights)  # a mean, so copies change nothing


def task(classes=3, n=24, seed=1):
    torch.manual_seed(seed)
    y = torch.arange(n) % classes
    return doubles(classes, 5)[y] + 0.5 * doubles(n, 5), y


def test_an_embedding_is_the_fisher_of_the_probe_under_a_head_trained_on_the_task():
    probe, (x, y) = nn.Sequential(network([5, 8]), nn.ReLU()), task()
    before = [p.clone() for p in probe.parameters()]
    embedding = mk.fisher_embedding(probe, x, y, 3, penalty=0.1)
    z = F.pad(probe(x), (0, 1), value=1.0).detach()
    head = mk.logistic_head(z, y, 3, 0.1)
    p, v = (z @ head.T).softmax(-1), head[:, :-1]
    spread = (p @ v.square()) - (p @ v).square()  # variance of the weight that reaches a unit, over the labels
    active = (z[:, :-1] > 0).double()
    close(embedding, ((spread * active)[:, :, None] * x.square()[:, None]).mean((0, 2)))
    assert all(torch.equal(a, b) for a, b in zip(before, probe.parameters(), strict=True))


def test_an_embedding_draws_no_random_numbers():
    probe, (x, y) = nn.Sequential(network([5, 8]), nn.ReLU()), task()
    state = torch.get_rng_state()
    first = mk.fisher_embedding(probe, x, y, 3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(mk.fisher_embedding(probe, x, y, 3), first)


def test_the_embedding_has_one_entry_for_each_filter_and_unit_whatever_the_classes():
    torch.manual_seed(0)
    probe = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 6), nn.Tanh())
    x = torch.rand(12, 1, 8, 8)
    for classes in (2, 4):
        embedding = mk.fisher_embedding(probe, x, torch.arange(12) % classes, classes)
        assert embedding.shape == (10,) and (embedding > 0).all()


def test_an_embedding_does_not_see_the_names_of_the_classes():
    probe, (x, y) = nn.Sequential(network([5, 8]), nn.Tanh()), task()
    renamed = torch.tensor([2, 0, 1])[y]
    close(mk.fisher_embedding(probe, x, renamed, 3), mk.fisher_embedding(probe, x, y, 3), 1e-10)


# similarity


def test_fisher_similarity_is_symmetric_one_for_equal_directions_and_blind_to_scale_of_a_coordinate():
    a, b = torch.rand(4, 7).double() + 0.1, torch.rand(3, 7).double() + 0.1
    close(mk.fisher_similarity(a, b), mk.fisher_similarity(b, a).T)
    close(mk.fisher_similarity(a, 3 * a).diagonal(), torch.ones(4).double())
    scale = torch.rand(7).double() + 0.5
    close(mk.fisher_similarity(a * scale, b * scale), mk.fisher_similarity(a, b))
    one = F.cosine_similarity(a[1] / (a[1] + b[2]), b[2] / (a[1] + b[2]), dim=0)
    close(mk.fisher_similarity(a, b)[1, 2], one)


def test_a_unit_that_neither_task_uses_does_not_count():
    a, b = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[2.0, 1.0, 0.0]])
    close(mk.fisher_similarity(a, b), mk.fisher_similarity(a[:, :2], b[:, :2]))


def test_wasserstein_in_cases_with_a_simple_answer():
    m, n = doubles(3), doubles(3)
    s, t = torch.rand(3).double() + 0.1, torch.rand(3).double() + 0.1
    diagonal = mk.wasserstein(m, torch.diag(s**2), n, torch.diag(t**2))
    close(diagonal, (m - n).square().sum() + (s - t).square().sum())
    a, turn = doubles(3, 5), torch.linalg.qr(doubles(3, 3)).Q
    cov = a @ a.T
    close(mk.wasserstein(m, cov, m, cov), torch.zeros(()).double(), 1e-6)
    b = doubles(3, 5)
    other = b @ b.T
    close(mk.wasserstein(m, cov, n, other), mk.wasserstein(n, other, m, cov))
    close(
        mk.wasserstein(turn @ m, turn @ cov @ turn.T, turn @ n, turn @ other @ turn.T), mk.wasserstein(m, cov, n, other)
    )


def test_the_rank_correlation_is_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    a, b = doubles(3, 20), doubles(3, 20)
    expected = torch.tensor([stats.spearmanr(u, v).statistic for u, v in zip(a, b, strict=True)])
    close(mk.rank_correlation(a, b), expected)
    close(mk.rank_correlation(a, a.exp()), torch.ones(3).double())


# transfer and fusion


def test_transfer_is_at_the_minimum_of_its_objective_for_every_start():
    x, y, starts = doubles(4, 6, 9), doubles(4, 6), doubles(3, 9)
    weights = mk.transfer(x, y, starts, 0.7)
    assert weights.shape == (4, 3, 9)
    residual = (x[:, None] @ weights[..., None])[..., 0] - y[:, None]
    slope = (x.mT[:, None] @ residual[..., None])[..., 0] + 0.7 * (weights - starts)
    close(slope, torch.zeros_like(slope))
    close(mk.transfer(x[1], y[1], starts, 0.7), weights[1])
    close(mk.transfer(x, y, starts.expand(4, -1, -1), 0.7), weights)


def test_the_expected_error_of_a_transfer_is_that_of_the_chapter():
    torch.manual_seed(0)
    x, truth, start, noise, strength = doubles(5, 4), doubles(4), doubles(4), 0.6, 1.3
    g = torch.linalg.inv(x.T @ x + strength * torch.eye(4).double())
    expected = strength**2 * (g @ (start - truth)).square().sum() + noise**2 * (g @ x.T @ x @ g).trace()
    y = x @ truth + noise * doubles(200_000, 5)
    error = (mk.transfer(x.expand(200_000, -1, -1), y, start[None], strength)[:, 0] - truth).square().sum(-1)
    torch.testing.assert_close(error.mean(), expected, rtol=0.01, atol=0)


def test_evidence_is_the_density_of_the_values():
    x, y, starts = doubles(2, 5, 3), doubles(2, 5), doubles(4, 3)
    evidence = mk.log_evidence(x, y, starts, noise=0.5, spread=0.8)
    for t in range(2):
        covariance = 0.25 * torch.eye(5).double() + 0.64 * x[t] @ x[t].T
        for s in range(4):
            close(evidence[t, s], MultivariateNormal(x[t] @ starts[s], covariance).log_prob(y[t]))


def test_fusing_starts_fuses_what_is_learned_from_them():
    x, y, starts, score = doubles(4, 6, 9), doubles(4, 6), doubles(3, 9), doubles(4, 3)
    fused = mk.transfer(x, y, mk.fuse(score, starts)[:, None], 0.7)[:, 0]
    close(fused, (score.softmax(-1)[..., None] * mk.transfer(x, y, starts, 0.7)).sum(1))


def test_fusing_by_evidence_is_the_posterior_mean_of_the_mixture():
    """In one dimension, against a sum over a fine grid."""
    x, y, starts = doubles(4, 1), doubles(4), torch.tensor([[-1.0], [0.2], [2.0]]).double()
    grid = torch.linspace(-8, 8, 20_001).double()
    prior = torch.exp(-0.5 * ((grid[:, None] - starts[:, 0]) / 0.4) ** 2).sum(1)
    likelihood = torch.exp(-0.5 * ((y - x[:, 0] * grid[:, None]) / 0.6).square().sum(1))
    posterior = prior * likelihood
    fused = mk.transfer(x, y, mk.fuse(mk.log_evidence(x, y, starts, 0.6, 0.4), starts)[None], 0.6**2 / 0.4**2)
    close(fused[0, 0], (grid * posterior).sum() / posterior.sum(), 1e-6)


def test_the_temperature_goes_from_the_best_source_to_the_plain_average():
    score, starts = doubles(5, 3), doubles(3, 4)
    close(mk.fuse(score, starts, 1e-6), starts[score.argmax(1)])
    close(mk.fuse(score, starts, 1e9), starts.mean(0).expand(5, -1), 1e-6)


# graphs


def graph(tasks=6, neighbours=2):
    points = doubles(tasks, 2)
    return mk.task_graph(-torch.cdist(points, points), neighbours)


def test_a_task_graph_joins_each_task_to_its_nearest_on_either_side_s_wish():
    similarity = -(torch.tensor([0.0, 1.0, 3.0, 7.0])[:, None] - torch.tensor([0.0, 1.0, 3.0, 7.0])).abs()
    expected = torch.tensor([[0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0]]).float()
    assert torch.equal(mk.task_graph(similarity, 1), expected)
    assert torch.equal(mk.task_graph(similarity, 3), 1 - torch.eye(4))


def test_the_laplacian_measures_differences_along_edges():
    adjacency, w = graph(), doubles(6, 3)
    pairs = adjacency[:, :, None] * (w[:, None] - w).square()
    close((w.T @ mk.laplacian(adjacency) @ w).trace(), pairs.sum() / 2)


def problem(tasks=6, n=3, d=4):
    torch.manual_seed(0)
    return doubles(tasks, n, d), doubles(tasks, n), graph(tasks)


def test_propagation_is_at_the_minimum_of_its_objective():
    x, y, adjacency = problem()

    def objective(w):
        misfit = ((x @ w[..., None])[..., 0] - y).square().sum() + 0.3 * w.square().sum()
        pairs = (adjacency[:, :, None] * (w[:, None] - w).square()).sum() / 2
        return misfit + 2.0 * pairs

    weights = mk.propagate(x, y, adjacency, gamma=2.0, ridge=0.3)
    slope = grad(objective)(weights)
    close(slope, torch.zeros_like(slope))


def test_without_pull_every_task_is_alone_and_with_a_huge_one_all_are_pooled():
    x, y, _ = problem()
    ring = torch.eye(6).double().roll(1, 0) + torch.eye(6).double().roll(-1, 0)
    zero = torch.zeros(1, 4).double()
    close(mk.propagate(x, y, ring, 0.0, 0.3), mk.transfer(x, y, zero, 0.3)[:, 0])
    pooled = mk.transfer(x.flatten(0, 1), y.flatten(), zero, 6 * 0.3)
    close(mk.propagate(x, y, ring, 1e9, 0.3), pooled.expand(6, -1), 1e-6)


def test_messages_arrive_at_the_same_heads_from_any_start_and_no_slower_than_promised():
    x, y, adjacency = problem()
    exact, start = mk.propagate(x, y, adjacency, 2.0, 0.3), 10 * doubles(6, 4)
    close(mk.propagate_by_messages(x, y, adjacency, 2.0, 0.3, 2000, start), exact, 1e-8)
    close(mk.propagate_by_messages(x, y, adjacency, 2.0, 0.3, 2000), exact, 1e-8)
    pull = 2.0 * adjacency.sum(1).max()
    rate, error = pull / (pull + 0.3), (start - exact).norm(dim=1).max()
    for sweeps in (1, 5, 20):
        left = mk.propagate_by_messages(x, y, adjacency, 2.0, 0.3, sweeps, start) - exact
        assert left.norm(dim=1).max() <= rate**sweeps * error


def test_propagation_is_the_posterior_mean_of_a_gaussian_field_on_the_graph():
    """Weights with precision kappa L + eps I between tasks, by the rules for conditioning a Gaussian."""
    x, y, adjacency = problem(tasks=5, n=3, d=2)
    kappa, eps, noise = 1.5, 0.4, 0.7
    between = torch.linalg.inv(kappa * mk.laplacian(adjacency) + eps * torch.eye(5).double())
    prior = torch.einsum("st,ij->sitj", between, torch.eye(2).double()).reshape(10, 10)
    design = torch.block_diag(*x)
    gain = prior @ design.T @ torch.linalg.inv(design @ prior @ design.T + noise**2 * torch.eye(15).double())
    mean = (gain @ y.flatten()).view(5, 2)
    close(mk.propagate(x, y, adjacency, noise**2 * kappa, noise**2 * eps), mean)


def test_a_task_without_examples_becomes_the_average_of_its_neighbours():
    """Label propagation: with a negligible ridge the answer is harmonic."""
    x, y, adjacency = problem()
    x[2] = 0
    weights = mk.propagate(x, y, adjacency, 1.0, 1e-9)
    close(weights[2], adjacency[2] @ weights / adjacency[2].sum(), 1e-6)


# bad input


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: mk.logistic_head(doubles(4, 2), torch.arange(4), 4, penalty=0.0), "penalty must be positive"),
        (
            lambda: mk.fisher_embedding(nn.Tanh(), doubles(4, 2), torch.tensor([0, 1, 2, 1]), 2),
            "labels must lie in 0..1",
        ),
        (lambda: mk.fisher_embedding(nn.Tanh(), doubles(4, 2), torch.tensor([0, 1, 0, 1]), 2), "probe has no weights"),
        (lambda: mk.transfer(doubles(3, 2), doubles(3), doubles(1, 2), 0.0), "strength must be positive"),
        (lambda: mk.log_evidence(doubles(3, 2), doubles(3), doubles(1, 2), -1.0, 1.0), "noise must be positive"),
        (lambda: mk.fuse(doubles(3), doubles(3, 2), 0.0), "temperature must be positive"),
        (lambda: mk.task_graph(doubles(3, 3), 3), "1 <= neighbours < tasks"),
        (lambda: mk.task_graph(doubles(3, 2), 1), "square similarity"),
        (lambda: mk.laplacian(torch.tensor([[0.0, 1.0], [2.0, 0.0]])), "symmetric weights"),
        (lambda: mk.laplacian(torch.eye(2)), "zero on the diagonal"),
        (lambda: mk.propagate(doubles(2, 3, 2), doubles(2, 3), 1 - torch.eye(2).double(), 1.0, 0.0), "ridge must be"),
    ],
)
def test_bad_input_is_refused_with_one_clear_message(call, words):
    with pytest.raises(ValueError, match=words.replace("..", r"\.\.")):
        call()
