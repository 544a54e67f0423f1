"""The contract: what holds for every learner, checked on all of them."""

import pytest
import torch
from examples import classification, regression
from torch.autograd import gradcheck
from torch.func import functional_call

from metabook import (
    ANIL,
    MAML,
    Episode,
    FineTuning,
    Learner,
    NearestNeighbour,
    PrototypicalNetwork,
    Reptile,
    Set,
    task_loss,
)  # fmt: skip
from metabook.networks import conv4, mlp

LEARNERS = {
    "maml": lambda: MAML(mlp([5, 7, 3], torch.nn.Tanh), inner_lr=0.3, inner_steps=2),
    "fomaml": lambda: MAML(mlp([5, 7, 3], torch.nn.Tanh), inner_lr=0.3, inner_steps=2, first_order=True),
    "anil": lambda: ANIL(mlp([5, 7], torch.nn.Tanh), torch.nn.Linear(7, 3), inner_lr=0.3, inner_steps=2),
    "reptile": lambda: Reptile(mlp([5, 7, 3], torch.nn.Tanh), inner_lr=0.3, inner_steps=2),
    "fine-tuning": lambda: FineTuning(mlp([5, 7, 3], torch.nn.Tanh), inner_lr=0.3, inner_steps=2),
    "prototypes": lambda: PrototypicalNetwork(mlp([5, 7, 4], torch.nn.Tanh), ways=3),
    "nearest neighbour": lambda: NearestNeighbour(ways=3),
}


@pytest.fixture(params=LEARNERS)
def learner(request, device) -> Learner:
    return LEARNERS[request.param]().double().to(device)


def test_vmap_equals_a_loop_over_tasks(learner, device):
    episode = classification(device=device)
    loop = torch.stack(
        [
            learner.predict(learner.adapt(Set(episode.support.x[t], episode.support.y[t])), episode.query.x[t])
            for t in range(episode.tasks)
        ]
    )
    torch.testing.assert_close(learner(episode), loop, rtol=1e-10, atol=1e-10)


def test_order_of_support_does_not_matter(learner, device):
    episode = classification(device=device)
    order = torch.randperm(episode.support.x.shape[1], device=device)
    shuffled = episode._replace(support=Set(episode.support.x[:, order], episode.support.y[:, order]))
    torch.testing.assert_close(learner(shuffled), learner(episode), rtol=1e-10, atol=1e-10)


def test_a_query_does_not_depend_on_the_others(learner, device):
    episode = classification(device=device)
    alone = episode._replace(query=Set(episode.query.x[:, :1], episode.query.y[:, :1]))
    assert not learner.transductive
    torch.testing.assert_close(learner(alone), learner(episode)[:, :1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["prototypes", "nearest neighbour"])
def test_renaming_the_classes_renames_the_answer(name, device):
    learner, episode = LEARNERS[name]().double().to(device), classification(device=device)
    renaming = torch.tensor([2, 0, 1], device=device)
    renamed = episode._replace(support=episode.support._replace(y=renaming[episode.support.y]))
    torch.testing.assert_close(learner(renamed)[..., renaming], learner(episode), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["maml", "prototypes"])
def test_meta_loss_by_finite_differences(name):
    learner, episode = LEARNERS[name]().double(), classification(tasks=2)
    names, weights = zip(*learner.named_parameters(), strict=True)

    def meta_loss(*values):
        prediction = functional_call(learner, dict(zip(names, values, strict=True)), (episode,))
        return learner.loss(prediction, episode.query.y)

    assert gradcheck(meta_loss, weights)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_conv4_meta_gradient_with_every_parameter_adapted(norm):
    """Directional finite differences of the whole learner: convolution, scale, shift and head, two inner steps."""
    learner = MAML(conv4(channels=4, outputs=3, norm=norm, image_size=16), inner_lr=0.3, inner_steps=2).double()
    episode = classification(tasks=2, shape=(1, 16, 16))
    learner.meta_loss(episode).backward()
    step = 1e-6
    for name, parameter in learner.named_parameters():
        direction = torch.randn_like(parameter)
        with torch.no_grad():
            parameter += step * direction
            above = learner.meta_loss(episode)
            parameter -= 2 * step * direction
            below = learner.meta_loss(episode)
            parameter += step * direction
        slope = ((above - below) / (2 * step)).item()
        assert slope == pytest.approx((parameter.grad * direction).sum().item(), rel=1e-5, abs=1e-7), name


def test_norm_kind_is_reported():
    assert PrototypicalNetwork(conv4(channels=4, norm="batch"), 3).transductive
    assert not PrototypicalNetwork(conv4(channels=4, norm="group"), 3).transductive


@pytest.mark.parametrize("name", ["maml", "prototypes", "nearest neighbour"])
def test_untrained_on_meaningless_images_is_chance(name):
    """Labels say nothing about the inputs, so accuracy is 1/3 within four standard errors."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(400, 12, 5, generator=generator)
    y = torch.arange(3).repeat(2).expand(400, -1)
    episode = Episode(Set(x[:, :6], y), Set(x[:, 6:], y))
    accuracy = (LEARNERS[name]()(episode).argmax(-1) == y).double().mean().item()
    assert abs(accuracy - 1 / 3) < 4 * (2 / 9 / y.numel()) ** 0.5


def test_precision_of_inputs_and_learner_must_agree():
    with pytest.raises(ValueError, match="inputs are torch.float64 but the learner's parameters are torch.float32"):
        LEARNERS["maml"]().meta_loss(classification())


def test_labels_beyond_the_ways_are_refused():
    with pytest.raises(ValueError, match="0..2 for 3 ways, met values from 0 to 3"):
        LEARNERS["prototypes"]().double().meta_loss(classification(ways=4))


def test_task_loss_refuses_to_broadcast():
    with pytest.raises(ValueError, match=r"predictions \(3, 5, 1\) and values \(3, 5, 2\)"):
        task_loss(torch.zeros(3, 5, 1), regression(outputs=2).query.y)


def test_task_loss_is_the_mean_over_all_examples():
    y = torch.tensor([[0, 1], [1, 1]])
    logits = torch.randn(2, 2, 3, dtype=torch.float64)
    expected = -logits.log_softmax(-1).gather(-1, y[..., None]).mean()
    torch.testing.assert_close(task_loss(logits, y), expected)
