"""Imagination against what it must be: closed forms of Gaussians, a bound that is a bound, heads that cannot be helped
and heads that must be."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from metabook import Episode, PrototypicalNetwork, Set
from metabook.generative.feature_hallucination import (
    DeltaVAE,
    FeatureGAN,
    GaussianClasses,
    GaussianNoise,
    Imagined,
    LinearDiscriminant,
    SameClassPairs,
    exact_points,
)
from metabook.metric.closed_form_heads import R2D2, ridge

D, WAYS = 4, 3


def seeded(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def doubles(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=seeded(seed))


def covariance(seed, d=D):
    root = doubles(d, d, seed=seed)
    return root @ root.T + 0.3 * torch.eye(d, dtype=torch.float64)


def family(ways=WAYS, d=D):
    return GaussianClasses(doubles(d, seed=1), covariance(2, d), covariance(3, d), ways)


def task(shots=1, ways=WAYS, d=D, seed=5, scale=2.0):
    y = torch.arange(ways).repeat(shots)
    return Set(scale * doubles(ways, d, seed=seed)[y] + doubles(ways * shots, d, seed=seed + 1), y)


def vae(latent=3, d=D, seed=0, std=0.4):
    torch.manual_seed(seed)
    model = DeltaVAE(d, latent, hidden=8).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std)
    return model


# the closed form


@pytest.mark.parametrize("shots", [1, 3])
def test_the_predictive_is_the_conditional_of_the_joint_gaussian(shots):
    """Average of k examples and one more are jointly Gaussian; condition that by the textbook formula."""
    g = family()
    B, W, m = g.between, g.within, g.mean
    a = doubles(2, D, seed=9)
    joint = torch.cat([torch.cat([B + W / shots, B], 1), torch.cat([B, B + W], 1)], 0)
    inverse = joint.inverse()[D:, D:].inverse()  # covariance of the second given the first
    mean = m + (a - m) @ torch.linalg.solve(joint[:D, :D], joint[:D, D:])
    b = g.predictive(a, shots)
    torch.testing.assert_close(b.mean, mean)
    torch.testing.assert_close(b.covariance_matrix.expand(2, D, D), inverse.expand(2, D, D))


def test_logits_are_log_densities_of_the_predictives_and_unequal_shots_are_seen():
    g, support, x = family(), task(2), doubles(7, D, seed=8)
    support = Set(support.x[:-1], support.y[:-1])  # the last class has one example
    logits = g.predict(g.adapt(support), x)
    dense = torch.stack(
        [g.predictive(support.x[support.y == k].mean(0), int((support.y == k).sum())).log_prob(x) for k in range(WAYS)],
        1,
    )
    torch.testing.assert_close(logits.log_softmax(-1), dense.log_softmax(-1))


def test_bayes_rule_over_tasks_is_the_rule_of_each_task():
    g, tasks = family(), [task(2, seed=s) for s in range(3)]
    episode = Episode(*(Set(*(torch.stack(t) for t in zip(*tasks, strict=True))) for _ in range(2)))
    alone = torch.stack([g.predict(g.adapt(t), t.x) for t in tasks])
    torch.testing.assert_close(g(episode), alone)


def test_no_rule_beats_bayes_rule_in_its_family():
    g = GaussianClasses(torch.zeros(D).double(), covariance(2), covariance(3), WAYS)
    means = doubles(2000, WAYS, 1, D, seed=4) @ torch.linalg.cholesky(g.between).T
    x = means + doubles(2000, WAYS, 6, D, seed=5) @ torch.linalg.cholesky(g.within).T
    y = torch.arange(WAYS)
    parts = x.split([1, 5], 2)
    episode = Episode(*(Set(p.flatten(1, 2), y.repeat_interleave(p.shape[2]).expand(2000, -1)) for p in parts))
    score = {
        name: (head(episode).argmax(-1) == episode.query.y).double().mean()
        for name, head in {"bayes": g, "mean": PrototypicalNetwork(nn.Identity(), WAYS)}.items()
    }
    assert score["bayes"] > score["mean"] + 0.03


def test_fit_recovers_the_moments_of_a_family():
    m, B, W = doubles(2, seed=1), covariance(2, 2), covariance(3, 2)
    labels = torch.arange(4000).repeat_interleave(5)
    means = m + doubles(4000, 2, seed=4) @ torch.linalg.cholesky(B).T
    x = means[labels] + doubles(len(labels), 2, seed=5) @ torch.linalg.cholesky(W).T
    g = GaussianClasses.fit(x, labels)
    for estimate, truth in ((g.mean, m), (g.between, B), (g.within, W)):
        torch.testing.assert_close(estimate, truth, rtol=0.1, atol=0.1)
    assert torch.linalg.eigvalsh(GaussianClasses.fit(doubles(12, 8), torch.arange(12) % 4).between).min() > -1e-9


def test_samples_follow_the_predictive():
    g, a = family(), doubles(2, D, seed=9)
    b = g.sample(a, 40_000, seeded())
    assert b.shape == (40_000, 2, D)
    exact = g.predictive(a)
    torch.testing.assert_close(b.mean(0), exact.mean, rtol=0, atol=0.06)
    torch.testing.assert_close(torch.cov(b[:, 0].T), exact.covariance_matrix[0], rtol=0, atol=0.25)


def test_exact_points_have_exactly_the_moments():
    gaussian = MultivariateNormal(doubles(5, D), covariance(2).expand(5, D, D))
    points = exact_points(gaussian)
    assert points.shape == (2 * D, 5, D)
    torch.testing.assert_close(points.mean(0), gaussian.mean)
    rest = points - points.mean(0)
    torch.testing.assert_close(torch.einsum("nki,nkj->kij", rest, rest) / (2 * D), gaussian.covariance_matrix)


# what heads make of it


class Moments:
    """Exact points of the predictive, or of the same shape around the example itself."""

    def __init__(self, gaussian, centred):
        self.gaussian, self.centred = gaussian, centred

    def sample(self, reference, n, generator):
        b = self.gaussian.predictive(reference)
        return exact_points(MultivariateNormal(reference, b.covariance_matrix) if self.centred else b)


def test_symmetric_imagination_leaves_the_nearest_mean_as_it_is():
    support, x = task(2), doubles(9, D, seed=8)
    head = PrototypicalNetwork(nn.Identity(), WAYS)
    dreaming = Imagined(head, Moments(family(), centred=True), 2 * D, seeded())
    torch.testing.assert_close(dreaming.predict(dreaming.adapt(support), x), head.predict(head.adapt(support), x))


def test_a_discriminant_on_perfect_imagination_is_bayes_rule():
    g, support, x = family(), task(), doubles(9, D, seed=8)
    dreaming = Imagined(LinearDiscriminant(WAYS, 0.0), Moments(g, centred=False), 2 * D, seeded(), keep=False)
    logits = dreaming.predict(dreaming.adapt(support), x) * 2 * D / (2 * D - 1)  # divided by n - ways, not n
    torch.testing.assert_close(logits.log_softmax(-1), g.predict(g.adapt(support), x).log_softmax(-1))


def test_ridge_on_imagined_points_is_ridge_with_their_penalty():
    support, sigma = task(2), covariance(6)
    targets = F.one_hot(support.y, WAYS).double()
    points = exact_points(MultivariateNormal(support.x, sigma)).flatten(0, 1)
    weights = ridge(points, targets.repeat(2 * D, 1), 2 * D * 0.3)
    gram = support.x.T @ support.x + len(targets) * sigma + 0.3 * torch.eye(D).double()
    torch.testing.assert_close(weights, torch.linalg.solve(gram, support.x.T @ targets))


def test_a_discriminant_without_spread_or_fully_shrunk_is_the_nearest_mean():
    x = doubles(9, D, seed=8)
    nearest = PrototypicalNetwork(nn.Identity(), WAYS)
    for support, shrinkage in ((task(), 0.3), (task(4), 1.0)):
        head = LinearDiscriminant(WAYS, shrinkage)
        logits, expected = (h.predict(h.adapt(support), x) for h in (head, nearest))
        size = head.adapt(support).covariance[0, 0]
        torch.testing.assert_close((2 * size * logits).log_softmax(-1), expected.log_softmax(-1))


def test_the_discriminant_is_that_of_scikit_learn():
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    support, x = task(8), doubles(9, D, seed=8)
    head = LinearDiscriminant(WAYS, 0.0)
    rest = support.x - torch.stack([support.x[support.y == k].mean(0) for k in range(WAYS)])[support.y]
    torch.testing.assert_close(head.adapt(support).covariance, rest.T @ rest / (len(rest) - WAYS))
    peer = LinearDiscriminantAnalysis(solver="lsqr", priors=[1 / WAYS] * WAYS).fit(support.x, support.y)
    n = len(support.y)  # the peer divides by n
    ours = head.predict(head.adapt(support), x) * n / (n - WAYS)
    torch.testing.assert_close(ours.softmax(-1), torch.from_numpy(peer.predict_proba(x.numpy())), rtol=1e-6, atol=1e-8)


def test_classes_without_examples_are_never_predicted():
    support, x = Set(task(3).x[:6] + 0.0, torch.tensor([0, 2] * 3)), doubles(9, D, seed=8)
    for head in (LinearDiscriminant(WAYS, 0.5), family()):
        logits = head.predict(head.adapt(support), x)
        assert (logits[:, 1] == -torch.inf).all() and logits[:, [0, 2]].isfinite().all()


IMAGINATIONS = {
    "noise": GaussianNoise(0.5),
    "differences": SameClassPairs(doubles(30, D, seed=3), torch.arange(30) % 6),
    "gaussian": family(),
    "vae": vae(),
    "gan": FeatureGAN(D, noise=3, hidden=8).double(),
}


@pytest.mark.parametrize("name", IMAGINATIONS)
def test_samples_have_shape_and_are_those_of_their_generator(name):
    imagination, reference = IMAGINATIONS[name], doubles(2, 3, D)
    with torch.no_grad():
        first, again, other = (imagination.sample(reference, 7, seeded(s)) for s in (1, 1, 2))
    assert first.shape == (7, 2, 3, D) and first.dtype == torch.float64
    assert torch.equal(first, again) and not torch.equal(first, other)
    if name != "noise":
        with pytest.raises(ValueError, match="n must be a positive integer, got 0"):
            imagination.sample(reference, 0, seeded())


@pytest.mark.parametrize("name", IMAGINATIONS)
@pytest.mark.parametrize("make", [lambda: PrototypicalNetwork(nn.Identity(), WAYS), lambda: LinearDiscriminant(WAYS),
                                  lambda: R2D2(nn.Identity(), WAYS).double()])  # fmt: skip
def test_renaming_the_classes_renames_the_answers(name, make):
    support, x, order = task(2), doubles(5, D, seed=8), torch.tensor([2, 0, 1])
    answers = []
    for y in (support.y, order[support.y]):
        head = Imagined(make(), IMAGINATIONS[name], 6, seeded(3))
        answers.append(head.predict(head.adapt(Set(support.x, y)), x).detach())
    torch.testing.assert_close(answers[1][:, order], answers[0])


def test_all_tasks_at_once_are_augmented_like_one_by_one_and_keep_their_labels():
    x, y = doubles(2, 6, D), (torch.arange(6) % WAYS).expand(2, -1)
    head = Imagined(LinearDiscriminant(WAYS), IMAGINATIONS["vae"], 5, seeded(1))
    both = head.augment(Set(x, y))
    assert both.x.shape == (2, 36, D) and torch.equal(both.y, y.repeat(1, 6))
    assert torch.equal(both.x[:, :6], x) and not both.x.requires_grad
    dropped = Imagined(LinearDiscriminant(WAYS), IMAGINATIONS["vae"], 5, seeded(1), keep=False).augment(Set(x, y))
    torch.testing.assert_close(dropped.x, both.x[:, 6:])
    episode = Episode(Set(x, y), Set(x, y))
    head.generator = seeded(1)
    torch.testing.assert_close(
        head(episode),
        torch.stack([head.head.predict(head.head.adapt(Set(*s)), q) for *s, q in zip(*both, x, strict=True)]),
    )


def test_an_imagination_without_deformation_changes_nothing():
    """A fresh decoder deforms nothing; without deviation its examples are the references."""
    model, support, x = DeltaVAE(D, 3, 8).double(), task(2), doubles(5, D, seed=8)
    with torch.no_grad():
        model.log_std.fill_(-50.0)
    copies = model.sample(support.x, 4, seeded()).detach()
    torch.testing.assert_close(copies, support.x.expand(4, -1, -1))
    for make in (PrototypicalNetwork(nn.Identity(), WAYS), R2D2(nn.Identity(), WAYS, 1.0).double()):
        dreaming = Imagined(make, model, 4, seeded())
        plain = make
        if isinstance(make, R2D2):  # five times the examples, five times the strength
            plain = R2D2(nn.Identity(), WAYS, 0.2).double()
        torch.testing.assert_close(dreaming.predict(dreaming.adapt(support), x), plain.predict(plain.adapt(support), x))


# pairs


def test_pairs_share_a_class_and_never_pair_an_example_with_itself():
    labels = torch.tensor([3, 1, 1, 3, 0, 3, 1, 5, 5])  # 0 has one example, 2 and 4 have none
    features = torch.stack([torch.arange(9.0), labels.float()], 1)
    target, reference = SameClassPairs(features, labels).draw(4000, seeded())
    assert torch.equal(target[:, 1], reference[:, 1])
    assert (target[:, 0] != reference[:, 0]).all()
    classes, counts = target[:, 1].unique(return_counts=True)
    assert classes.tolist() == [1, 3, 5] and counts.min() > 1200
    of_three = target[target[:, 1] == 3, 0].unique(return_counts=True)
    assert of_three[0].tolist() == [0, 3, 5] and of_three[1].min() > 350


def test_differences_have_twice_the_covariance_of_a_class_unless_scaled():
    labels = torch.arange(300).repeat_interleave(20)
    root = torch.linalg.cholesky(covariance(3))
    x = 5 * doubles(300, D, seed=1)[labels] + doubles(6000, D, seed=2) @ root.T
    for scale, factor in ((1.0, 2.0), (0.5**0.5, 1.0)):
        b = SameClassPairs(x, labels, scale).sample(torch.zeros(D).double(), 40_000, seeded())
        torch.testing.assert_close(torch.cov(b.T), factor * covariance(3), rtol=0.1, atol=0.2)


# the autoencoder


def test_kl_is_its_closed_form_and_its_integral():
    mean, log_std = doubles(6, seed=1), 0.5 * doubles(6, seed=2)
    q = Independent(Normal(mean, log_std.exp()), 1)
    prior = Independent(Normal(torch.zeros_like(mean), torch.ones_like(mean)), 1)
    closed = 0.5 * (mean.square() + (2 * log_std).exp() - 1 - 2 * log_std).sum()
    torch.testing.assert_close(kl_divergence(q, prior), closed)
    z = mean + log_std.exp() * doubles(400_000, 6, seed=3)
    torch.testing.assert_close((q.log_prob(z) - prior.log_prob(z)).mean(), closed, rtol=0, atol=0.02)


def linear(model, into, out, bias=None):
    """A two-layer ReLU network that is the linear map `out @ into`: relu(x) - relu(-x) = x."""
    rows = into.shape[0]
    model[0].weight.data.zero_()
    model[0].bias.data.zero_()
    model[0].weight.data[:rows], model[0].weight.data[rows : 2 * rows] = into, -into
    model[2].weight.data.zero_()
    model[2].weight.data[:, :rows], model[2].weight.data[:, rows : 2 * rows] = out, -out
    model[2].bias.data.copy_(torch.zeros(len(out)).double() if bias is None else bias)


def test_the_bound_is_tight_at_the_exact_posterior_and_loose_elsewhere_in_a_linear_gaussian_model():
    """b = a + F z + s e: the posterior of z is Gaussian, and for orthogonal columns of F it has independent parts."""
    s, latent = 0.5, 2
    directions = torch.linalg.qr(doubles(D, D)).Q[:, :latent] * torch.tensor([2.0, 0.7]).double()
    model = DeltaVAE(D, latent, hidden=32).double()
    pick = torch.eye(D + latent).double()
    linear(model.decoder, pick[D:], directions)  # reads z alone
    model.log_std.data.fill_(math.log(s))
    precision = 1 + directions.square().sum(0) / s**2
    gain = directions.T / s**2 / precision[:, None]
    log_std = -0.5 * precision.log()
    read = torch.eye(2 * D).double()[:D]  # the difference of target and reference
    linear(model.encoder, read, torch.cat([gain, torch.zeros(latent, D).double()]), torch.cat([0 * log_std, log_std]))
    a = doubles(4, D, seed=1)
    b = a + doubles(4, latent, seed=2) @ directions.T + s * doubles(4, D, seed=3)
    exact = MultivariateNormal(a, directions @ directions.T + s**2 * torch.eye(D).double()).log_prob(b)
    many = [t.expand(20_000, 4, D) for t in (b, a)]
    with torch.no_grad():
        torch.testing.assert_close(model.elbo(*many, seeded()).mean(0), exact, rtol=0, atol=0.05)
        model.encoder[2].bias[:latent] += 0.5
        loose = model.elbo(*many, seeded()).mean(0)
        gap = 0.5 * (0.25 * precision).sum()  # KL from the wrong posterior to the exact one
        torch.testing.assert_close(exact - loose, gap.expand(4), rtol=0, atol=0.06)


def test_the_bound_has_the_derivatives_of_finite_differences():
    model = vae()
    names, values = zip(*model.named_parameters(), strict=True)
    target, reference = doubles(3, D, seed=1), doubles(3, D, seed=2)

    def bound(*weights):
        moved = dict(zip(names, weights, strict=True))
        q = torch.func.functional_call(_Bound(model), {f"model.{k}": v for k, v in moved.items()}, (target, reference))
        return q

    assert torch.autograd.gradcheck(bound, tuple(v.detach().requires_grad_() for v in values))


class _Bound(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, target, reference):
        return self.model.elbo(target, reference, seeded(3))


def test_imagined_examples_of_a_linear_model_have_its_moments():
    model, a = vae(std=0.0), doubles(D, seed=1)
    directions = doubles(D, 3, seed=2)
    model = DeltaVAE(D, 3, hidden=32).double()
    linear(model.decoder, torch.eye(D + 3).double()[D:], directions)
    model.log_std.data.fill_(math.log(0.5))
    b = model.sample(a, 60_000, seeded()).detach()
    torch.testing.assert_close(b.mean(0), a, rtol=0, atol=0.05)
    torch.testing.assert_close(
        torch.cov(b.T), directions @ directions.T + 0.25 * torch.eye(D).double(), rtol=0, atol=0.2
    )


# the adversary


def test_the_losses_of_both_players_are_the_cross_entropies_and_touch_only_their_own_weights():
    torch.manual_seed(0)
    gan, a, b = FeatureGAN(D, 3, 8).double(), doubles(6, D), doubles(6, D, seed=1)
    fake = gan.sample(a, 1, seeded(2))[0]
    D_real, D_fake = gan.logit(b, a).sigmoid(), gan.logit(fake, a).sigmoid()
    judge, maker = gan.discriminator_loss(b, a, seeded(2)), gan.generator_loss(a, seeded(2))
    torch.testing.assert_close(judge, -D_real.log().mean() - (1 - D_fake).log().mean())
    torch.testing.assert_close(maker, -D_fake.log().mean())
    judge.backward()
    assert all(p.grad is None for p in gan.generator.parameters())
    assert all(p.grad is not None for p in gan.discriminator.parameters())


def test_a_judge_that_knows_nothing_pays_two_log_two_and_none_pays_less_when_the_maker_is_perfect():
    torch.manual_seed(0)
    gan, a = FeatureGAN(D, 3, 8).double(), doubles(500, D)
    real = gan.sample(a, 1, seeded(5))[0].detach()  # what is real comes from the generator itself
    assert gan.discriminator_loss(real, a, seeded(6)) > 2 * math.log(2) - 0.02
    nn.init.zeros_(gan.discriminator[-1].weight)
    nn.init.zeros_(gan.discriminator[-1].bias)
    torch.testing.assert_close(gan.discriminator_loss(real, a, seeded(6)).item(), 2 * math.log(2))


def test_rectified_imagination_is_never_negative():
    torch.manual_seed(0)
    for rectify in (True, False):
        gan = FeatureGAN(D, 3, 8, rectify=rectify).double()
        assert bool((gan.sample(doubles(50, D), 3, seeded()) < 0).any()) is not rectify


# bad input


def test_bad_input_is_refused_in_words():
    with pytest.raises(ValueError, match="at least two examples"):
        SameClassPairs(doubles(3, D), torch.arange(3))
    with pytest.raises(ValueError, match=r"features \(n, d\) and labels \(n,\) are needed"):
        SameClassPairs(doubles(3, D), torch.arange(4))
    with pytest.raises(ValueError, match="shrinkage is a share"):
        LinearDiscriminant(3, 1.5)
    with pytest.raises(ValueError, match="two classes and two examples"):
        GaussianClasses.fit(doubles(3, D), torch.tensor([0, 0, 1]))
    with pytest.raises(ValueError, match=r"between \(d, d\)"):
        GaussianClasses(doubles(D), doubles(D, 2), doubles(D, D))
    with pytest.raises(ValueError, match="copies must be a positive integer"):
        Imagined(LinearDiscriminant(3), GaussianNoise(1.0), 0, seeded())
    with pytest.raises(ValueError, match="latent must be a positive integer"):
        DeltaVAE(4, latent=0)
