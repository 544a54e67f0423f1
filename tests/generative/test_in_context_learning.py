"""Layers of linear attention against gradient descent, the transformer against what its design promises, and the memory
against what was written into it."""

import pytest
import torch
import torch.nn.functional as F
from examples import classification, regression, slopes
from torch import nn
from torch.func import vmap

from metabook import Episode, Set
from metabook.generative.in_context_learning import (
    ContentMemory,
    InContextRegressor,
    LinearAttention,
    gradient_steps,
)
from metabook.metric.closed_form_heads import ridge
from metabook.networks import attention
from metabook.tasks import LinearGaussian


def transformer(inputs=2, outputs=1, width=8, layers=2, heads=2, device="cpu"):
    return InContextRegressor(inputs, outputs, width, layers, heads).double().to(device)


def memory(ways=3, features=5, device="cpu", **options):
    return ContentMemory(nn.Linear(features, 4), ways, **options).double().to(device)


LEARNERS = {
    "transformer": (transformer, regression),
    "linear attention": (lambda device="cpu": LinearAttention(2, layers=3).double().to(device), regression),
    "memory": (lambda device="cpu": memory(slots=4, gate=0.3, device=device), classification),
}


def descended(x, y, rates):
    """W (inputs, outputs) after gradient descent from zero on 1/(2n) sum ||x W - y||^2, by autograd."""
    W = x.new_zeros(x.shape[1], y.shape[1]).requires_grad_()
    for rate in rates:
        loss = (x @ W - y).square().sum() / (2 * len(x))
        (slope,) = torch.autograd.grad(loss, W)
        W = (W - rate * slope).detach().requires_grad_()
    return W.detach()


# layers of linear attention


@pytest.mark.parametrize("rates", [[0.3], [0.5, 0.5], [0.1, 0.7, 0.3, 0.2, 0.4]])
@pytest.mark.parametrize(("inputs", "outputs", "shots"), [(1, 1, 1), (3, 1, 7), (4, 2, 3), (2, 5, 6)])
def test_hand_built_layers_are_steps_of_gradient_descent(inputs, outputs, shots, rates, device):
    episode = regression(shots=shots, features=inputs, outputs=outputs, device=device)
    layers = gradient_steps(inputs, rates, outputs).double().to(device)
    answers = layers(episode)
    for task in range(episode.tasks):
        W = descended(episode.support.x[task], episode.support.y[task], rates)
        torch.testing.assert_close(answers[task], episode.query.x[task] @ W, rtol=1e-6, atol=1e-7)  # rates are float32


def test_in_single_precision_too():
    episode = regression(shots=9, features=4, dtype=torch.float32)
    answers = gradient_steps(4, [0.4] * 6)(episode)
    W = descended(episode.support.x[0], episode.support.y[0], [0.4] * 6)
    torch.testing.assert_close(answers[0], episode.query.x[0] @ W, rtol=1e-5, atol=1e-6)


def test_many_small_steps_end_at_least_squares():
    episode = regression(tasks=1, shots=20, features=3)
    W = torch.linalg.lstsq(episode.support.x[0], episode.support.y[0]).solution
    answers = gradient_steps(3, [0.5] * 200).double()(episode)[0]
    torch.testing.assert_close(answers, episode.query.x[0] @ W, rtol=1e-5, atol=1e-6)


def test_the_tokens_of_the_examples_hold_the_residuals():
    """The state of layer 2 is the mean of e e' with y replaced by y - W x after one step."""
    episode = regression(tasks=1, shots=6, features=2)
    x, y = episode.support.x[0], episode.support.y[0]
    state = gradient_steps(2, [0.5, 0.5]).double().adapt(Set(x, y))
    tokens = torch.cat([x, y - x @ descended(x, y, [0.5])], dim=1)
    assert state.shape == (2, 3, 3)
    torch.testing.assert_close(state[1], tokens.T @ tokens / 6)


def test_the_best_single_layer_has_the_rate_of_the_formula():
    """For x ~ N(0, I) and w ~ N(0, tau^2 I): rate = 1 / (1 + (d + 1 + noise^2 / tau^2) / n), by a fit over tasks."""
    d, n, noise = 3, 8, 0.7
    tasks = LinearGaussian(d, shots=n, queries=1, prior_mean=0.0, noise=noise, dtype=torch.float64)
    generator = tasks.generator(0)
    weights = tasks.weights(200_000, generator)
    support = tasks.episode(weights, generator).support
    step = (support.x.mT @ support.y)[..., 0] / n  # W after one step of rate 1
    fitted = (weights * step).sum() / step.square().sum()
    torch.testing.assert_close(fitted.item(), 1 / (1 + (d + 1 + noise**2) / n), rtol=0.01, atol=0)


# the transformer


@pytest.mark.parametrize("name", ["transformer", "linear attention"])
def test_the_order_of_the_examples_is_of_no_effect(name):
    make, draw = LEARNERS[name]
    learner, episode, order = make(), draw(), torch.tensor([2, 0, 3, 1])
    shuffled = Episode(Set(*(t[:, order] for t in episode.support)), episode.query)
    torch.testing.assert_close(learner(shuffled), learner(episode))


@pytest.mark.parametrize("name", LEARNERS)
def test_a_query_does_not_see_the_others(name):
    make, draw = LEARNERS[name]
    learner, episode = make(), draw()
    together = learner(episode)
    for k in range(together.shape[1]):
        alone = Episode(episode.support, Set(*(t[:, k : k + 1] for t in episode.query)))
        torch.testing.assert_close(learner(alone), together[:, k : k + 1])
    assert not learner.transductive


@pytest.mark.parametrize("name", LEARNERS)
def test_every_example_has_an_effect(name):
    make, draw = LEARNERS[name]
    learner, episode = make(), draw()
    for k in range(episode.support.x.shape[1]):
        x = episode.support.x.clone()
        x[:, k] += 1
        changed = learner(Episode(Set(x, episode.support.y), episode.query))
        assert ((changed - learner(episode)).abs().amax((1, 2)) > 1e-8).all()


def test_the_state_is_what_the_examples_leave_in_every_block():
    learner, episode = transformer(layers=3), regression()
    state = learner.adapt(Set(episode.support.x[0], episode.support.y[0]))
    assert [part.keys.shape for part in state] == [(2, 5, 4)] * 3  # heads, start and examples, width / heads


def test_the_transformer_is_a_block_over_examples_and_query_with_a_mask():
    """An independent way: all tokens in one sequence, where the examples see each other and a query sees only them."""
    learner, episode = transformer(layers=3), regression(tasks=1)
    (x, y), queries = (t[0] for t in episode.support), episode.query.x[0]
    n, m = len(x), len(queries)
    examples = torch.cat([learner.start, learner.embed_example(torch.cat([x, y], 1))])
    tokens, n = torch.cat([examples, learner.embed_query(queries)]), n + 1
    mask = torch.cat([torch.ones(n + m, n), torch.zeros(n + m, m)], 1).bool()
    for block in learner.blocks:
        tokens = block(tokens, mask=mask)
    torch.testing.assert_close(learner(episode)[0], learner.readout(learner.norm(tokens[n:])))


@pytest.mark.parametrize("start", [False, True])
def test_only_with_the_start_token_examples_given_twice_are_noticed(start):
    learner, episode = InContextRegressor(2, width=8, layers=2, heads=2, start=start).double(), regression()
    twice = Episode(Set(*(torch.cat([t, t], 1) for t in episode.support)), episode.query)
    change = (learner(twice) - learner(episode)).abs()
    assert change.max() < 1e-12 if not start else change.min() > 1e-6


@pytest.mark.parametrize("shots", [1, 9, 40])
def test_any_number_of_examples_is_read(shots):
    answers = transformer()(regression(shots=shots))
    assert answers.shape == (3, 5, 1) and answers.isfinite().all()


@pytest.mark.parametrize("name", LEARNERS)
def test_a_batch_of_tasks_is_a_loop_over_tasks(name, device):
    make, draw = LEARNERS[name]
    learner, episode = make(device=device), draw(device=device)
    prediction = learner(episode)
    for task in range(episode.tasks):
        state = learner.adapt(Set(episode.support.x[task], episode.support.y[task]))
        torch.testing.assert_close(learner.predict(state, episode.query.x[task]), prediction[task])


@pytest.mark.parametrize("name", LEARNERS)
def test_the_meta_gradient_is_that_of_finite_differences(name):
    make, draw = LEARNERS[name]
    finite, exact = slopes(make(), draw(), step=1e-6)
    torch.testing.assert_close(finite, exact, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["transformer", "linear attention"])
def test_gradcheck_of_the_loss(name):
    make, _ = LEARNERS[name]
    learner, episode = make(), regression(tasks=2, shots=3, queries=2)

    def loss(x, y):
        return learner.meta_loss(Episode(Set(x, y), episode.query))

    assert torch.autograd.gradcheck(loss, tuple(t.requires_grad_() for t in episode.support))


def test_ridge_is_the_exact_posterior_mean_that_the_transformer_is_measured_by():
    tasks = LinearGaussian(4, shots=6, prior_mean=0.0, prior_std=1.3, noise=0.7, dtype=torch.float64)
    support, _ = tasks.sample(5, tasks.generator(0))
    weights = vmap(lambda s: ridge(s.x, s.y, 0.7**2 / 1.3**2))(support)
    torch.testing.assert_close(weights[..., 0], tasks.posterior(support).mean)


# the memory


def test_a_written_key_is_read_back():
    """Keys at right angles, a sharp reading: each finds its own label."""
    learner = ContentMemory(nn.Identity(), ways=3, slots=6, sharpness=100.0, gate=1e-6, scale=1.0).double()
    keys, labels = torch.eye(4, dtype=torch.float64), torch.tensor([2, 0, 1, 0])
    state = learner.adapt(Set(keys, labels))
    torch.testing.assert_close(learner.predict(state, keys), F.one_hot(labels, 3).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(learner.attend(state, keys).argmax(-1), torch.arange(4))  # rows in order


def test_when_all_rows_are_in_use_the_least_used_is_forgotten():
    """Three keys in two rows, the first read again before the third is written: the second has to go."""
    learner = ContentMemory(nn.Identity(), ways=3, slots=2, sharpness=100.0, gate=1e-6, scale=1.0).double()
    one_hot, state = torch.eye(3, dtype=torch.float64), learner.empty(torch.zeros(3).double())
    state = learner.write(learner.write(state, one_hot[0], one_hot[0]), one_hot[1], one_hot[1])
    state = state._replace(usage=state.usage + learner.attend(state, one_hot[0]))
    state = learner.write(state, one_hot[2], one_hot[2])
    answers = learner.predict(state, one_hot)
    torch.testing.assert_close(answers[[0, 2]], one_hot[[0, 2]], rtol=0, atol=1e-5)
    torch.testing.assert_close(state.keys[1], one_hot[2], rtol=0, atol=1e-4)


def test_an_open_gate_writes_where_it_has_read():
    learner = ContentMemory(nn.Identity(), ways=2, slots=3, sharpness=200.0, gate=1 - 1e-9).double()
    key, label = torch.tensor([0.6, 0.8]).double(), torch.tensor([1.0, 0.0]).double()
    state = learner.empty(key)._replace(keys=torch.stack([-key, key, key * 0]), values=torch.eye(3, 2).double())
    after = learner.write(state, key, label)
    torch.testing.assert_close(after.keys[1], 2 * key)
    torch.testing.assert_close(after.values[1], torch.tensor([1.0, 1.0]).double())


def test_with_a_row_for_every_example_reading_is_attention():
    learner, episode = memory(slots=9, sharpness=3.0), classification(tasks=1)
    learner.gate.data.fill_(-torch.inf)  # only the least used rows are written, and those are empty
    x, y = episode.support.x[0], episode.support.y[0]
    keys, queries = (F.normalize(learner.encoder(t), dim=-1) for t in (x, episode.query.x[0]))
    expected = 5.0 * attention(3.0 * 2.0 * queries, keys, F.one_hot(y, 3).double())  # it divides by the root of 4
    torch.testing.assert_close(learner.predict(learner.adapt(Set(x, y)), episode.query.x[0]), expected)


def test_following_a_sequence_is_predicting_before_each_writing():
    learner, episode = memory(slots=4), classification(tasks=1)
    sequence = Set(episode.support.x[0], episode.support.y[0])
    answers = learner.follow(sequence)
    assert (answers[0] == 0).all()  # nothing was written yet
    for k in range(1, len(sequence.x)):
        state = learner.adapt(Set(*(t[:k] for t in sequence)))
        torch.testing.assert_close(learner.predict(state, sequence.x[k : k + 1])[0], answers[k])


def test_other_names_of_the_classes_change_only_the_names():
    learner, episode, names = memory(), classification(), torch.tensor([2, 0, 1])
    renamed = Episode(*(Set(x, names[y]) for x, y in episode))
    torch.testing.assert_close(learner(renamed)[..., names], learner(episode))


# bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InContextRegressor(0), "inputs must be a positive integer, got 0"),
        (lambda: InContextRegressor(2, layers=0), "layers must be a positive integer, got 0"),
        (lambda: InContextRegressor(2, width=6, heads=4), "heads must divide the width"),
        (lambda: LinearAttention(2, outputs=0), "outputs must be a positive integer, got 0"),
        (lambda: gradient_steps(2, []), "layers must be a positive integer, got 0"),
        (lambda: ContentMemory(nn.Identity(), 1), "at least 2 ways, got 1"),
        (lambda: ContentMemory(nn.Identity(), 2, slots=0), "slots must be a positive integer, got 0"),
        (lambda: ContentMemory(nn.Identity(), 2, sharpness=0.0), "must be positive, got 0.0 and 5.0"),
        (lambda: ContentMemory(nn.Identity(), 2, gate=1.0), "gate must lie in"),
        (lambda: ContentMemory(nn.Identity(), 2, decay=0.0), "decay in"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", ["transformer", "linear attention"])
def test_classes_and_other_sizes_are_refused(name):
    learner = LEARNERS[name][0]()
    with pytest.raises(ValueError, match="holds classes"):
        learner.meta_loss(classification(shape=(2,)))
    with pytest.raises(ValueError, match="set inputs and outputs of the learner"):
        learner.meta_loss(regression(features=3))


def test_labels_outside_the_ways_are_refused():
    with pytest.raises(ValueError, match="must lie in 0..1"):
        memory(ways=2).meta_loss(classification(ways=3))
