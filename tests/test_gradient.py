"""The meta-gradient: whole, in chunks, traced, compiled, always the same."""

import shutil

import pytest
import torch
from examples import classification
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from metabook import ANIL, MAML, Episode, PrototypicalNetwork, Reptile, Set
from metabook.gradient import MODES, _solves, _Traced, meta_gradient
from metabook.metric import R2D2
from metabook.networks import conv4, mlp
from metabook.networks.conv4 import Block

LEARNERS = {
    "maml": lambda: MAML(mlp([5, 7, 3], nn.Tanh), inner_lr=0.3, inner_steps=2),
    "maml recomputed": lambda: MAML(mlp([5, 7, 3], nn.Tanh), inner_lr=0.3, inner_steps=2, recompute=True),
    "anil": lambda: ANIL(mlp([5, 7]), nn.Linear(7, 3), inner_lr=0.3, inner_steps=2),
    "reptile": lambda: Reptile(mlp([5, 7, 3], nn.Tanh), inner_lr=0.3, inner_steps=2),
    "prototypes": lambda: PrototypicalNetwork(mlp([5, 7, 4], nn.Tanh), ways=3),
}


def gradients(learner, episode, **options):
    learner.zero_grad(set_to_none=True)
    outcome = meta_gradient(learner, **options)(episode)
    return [outcome, *(p.grad for p in learner.parameters())]


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_chunks_give_the_gradient_of_the_whole_to_ten_digits(name, chunk, device):
    learner, episode = LEARNERS[name]().double().to(device), classification(tasks=5, device=device)
    whole, parts = gradients(learner, episode), gradients(learner, episode, chunk=chunk)
    for a, b in zip(parts[1:], whole[1:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(parts[0], whole[0])


def test_it_is_the_gradient_of_the_meta_loss_and_adds_to_what_is_there(device):
    learner, episode = LEARNERS["maml"]().double().to(device), classification(device=device)
    learner.meta_loss(episode).backward()
    once = [p.grad.clone() for p in learner.parameters()]
    meta_gradient(learner)(episode)
    for p, g in zip(learner.parameters(), once, strict=True):
        torch.testing.assert_close(p.grad, 2 * g)


needs_compiler = pytest.mark.skipif(not shutil.which("c++"), reason="torch.compile finds no C++ compiler")


@pytest.mark.parametrize("mode", ["traced", pytest.param("compiled", marks=needs_compiler)])
def test_a_program_gives_the_same_gradient_and_follows_the_weights(mode, device):
    """Convolution, normalisation, pooling, an inner step and its derivative; none of it is built in as a constant."""
    torch.manual_seed(1)
    network = nn.Sequential(Block(1, 2), nn.Flatten(), nn.Linear(2 * 4, 3))
    learner = MAML(network, inner_lr=0.1).double().to(device)
    episode = classification(shape=(1, 4, 4), tasks=2, device=device)
    accumulate = meta_gradient(learner, mode=mode)
    for _ in range(2):
        learner.zero_grad(set_to_none=True)
        got = [accumulate(episode), *(p.grad for p in learner.parameters())]
        for a, b in zip(got, gradients(learner, episode), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
        with torch.no_grad():
            for p in learner.parameters():
                p += 0.1


@pytest.mark.parametrize("name", LEARNERS)
def test_every_shape_of_episode_has_its_program(name, device):
    """Three tasks in chunks of two: the last chunk is smaller."""
    learner, episode = LEARNERS[name]().double().to(device), classification(tasks=3, device=device)
    got, expected = gradients(learner, episode, chunk=2, mode="traced"), gradients(learner, episode)
    torch.testing.assert_close(got[0], expected[0])
    torch.testing.assert_close(got[1:], expected[1:], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("mode", ["traced", pytest.param("compiled", marks=needs_compiler)])
def test_a_program_serves_only_what_it_was_written_for(mode, device):
    """Episodes of another shape or memory layout, another learner, a frozen parameter: each has its own."""

    def agree(learner, accumulate, episode):
        learner.zero_grad(set_to_none=True)
        got = [accumulate(episode), *(p.grad for p in learner.parameters())]
        torch.testing.assert_close(got, gradients(learner, episode), rtol=1e-9, atol=1e-11)

    learners = [MAML(mlp([5, 4, 3], nn.Tanh), inner_lr=rate).double().to(device) for rate in (0.3, 0.7)]
    first, second = (meta_gradient(learner, mode=mode) for learner in learners)
    episode, larger = (classification(tasks=n, device=device) for n in (2, 3))
    turned = Episode(*(Set(part.x.mT.contiguous().mT, part.y) for part in episode))
    for of in (episode, larger, turned, episode):
        agree(learners[0], first, of)
    agree(learners[1], second, episode)
    next(learners[0].parameters()).requires_grad_(False)
    agree(learners[0], first, episode)


@pytest.mark.parametrize("mode", MODES)
def test_a_malformed_episode_is_refused_before_anything_is_traced(mode):
    learner = LEARNERS["prototypes"]().double()
    with pytest.raises(ValueError, match="labels|must lie in 0..2"):
        meta_gradient(learner, mode=mode)(classification(ways=4))


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="one of eager, traced, compiled, got 'fast'"):
        meta_gradient(LEARNERS["maml"](), mode="fast")


def test_dropout_draws_anew_in_a_traced_gradient(device):
    network = nn.Sequential(nn.Linear(5, 40), nn.Dropout(0.5), nn.Linear(40, 3))
    accumulate = meta_gradient(MAML(network).double().to(device), mode="traced")
    episode = classification(device=device)
    assert accumulate(episode)[0] != accumulate(episode)[0]


def direction(learner, episode, **options):
    outcome, *gradient = gradients(learner, episode, **options)
    assert outcome.dtype == torch.float32 and all(g.dtype == torch.float32 for g in gradient)
    return torch.cat([g.flatten() for g in gradient])


@pytest.mark.parametrize("name", LEARNERS)
def test_bfloat16_rounds_the_gradient_and_no_more(name, device):
    """Products of 8 bits: the direction stays, to a few per cent, and it is not the one of float32."""
    learner, episode = LEARNERS[name]().to(device), classification(dtype=torch.float32, device=device)
    exact, rounded = direction(learner, episode), direction(learner, episode, precision="bfloat16")
    assert 1e-5 < (rounded - exact).norm() / exact.norm() < 0.05
    again = [direction(learner, episode, precision="bfloat16", mode=mode) for mode in ("eager", "traced")]
    torch.testing.assert_close(again[0], rounded)
    torch.testing.assert_close(again[1], rounded, rtol=1e-2, atol=1e-3)


def test_bfloat16_follows_the_weights(device):
    """Rounded weights must not be kept from one step to the next."""
    learner, episode = LEARNERS["maml"]().to(device), classification(dtype=torch.float32, device=device)
    accumulate = meta_gradient(learner, precision="bfloat16")
    before = accumulate(episode)[0]
    with torch.no_grad():
        for p in learner.parameters():
            p.mul_(3.0)
    after = meta_gradient(learner)(episode)[0]
    assert (accumulate(episode)[0] - after).abs() < 0.05 < (before - after).abs()


def test_recomputed_steps_have_the_precision_of_the_first_time(device):
    episode = classification(dtype=torch.float32, device=device)
    learner = LEARNERS["maml"]().to(device)
    kept = direction(learner, episode, precision="bfloat16")
    learner.recompute = True
    torch.testing.assert_close(direction(learner, episode, precision="bfloat16"), kept, rtol=1e-2, atol=1e-3)


def test_convolutions_have_the_precision_too(device):
    """Rounding moves pixels over the kinks of ReLU and pooling, so the gradient is compared by its direction."""
    torch.manual_seed(0)
    learner = MAML(conv4(channels=8, outputs=3, norm="group"), inner_lr=0.1).to(device)
    episode = classification(shape=(1, 28, 28), dtype=torch.float32, device=device)
    exact, rounded = (gradients(learner, episode, precision=p) for p in ("float32", "bfloat16"))
    assert 1e-6 < (exact[0][0] - rounded[0][0]).abs() < 0.02
    a, b = (torch.cat([g.flatten() for g in part[1:]]) for part in (exact, rounded))
    assert torch.cosine_similarity(a, b, dim=0) > 0.7


@pytest.mark.parametrize(
    ("precision", "products", "convolutions"), [("float32", "highest", False), ("tf32", "high", True)]
)
def test_settings_of_torch_last_as_long_as_the_call(precision, products, convolutions, device):
    learner, episode = LEARNERS["maml"]().to(device), classification(dtype=torch.float32, device=device)
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    exact, rounded = direction(learner, episode), direction(learner, episode, precision=precision)
    assert (rounded - exact).norm() / exact.norm() < 0.01
    inside = []

    class Broken(MAML):
        def predict(self, state, x):
            inside.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        meta_gradient(Broken(mlp([5, 7, 3])).to(device), precision=precision)(episode)
    assert inside == [(products, convolutions) if device.type == "cuda" else before]
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="precision must be one of float32, tf32, bfloat16, got 'float16'"):
        meta_gradient(LEARNERS["maml"](), precision="float16")


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("mode", ["eager", "traced"])
@pytest.mark.parametrize("name", LEARNERS)
@needs_gpu
def test_nothing_in_a_step_waits_for_the_gpu(name, mode):
    learner, episode = LEARNERS[name]().cuda(), classification(dtype=torch.float32, device="cuda")
    optimizer = torch.optim.Adam(learner.parameters(), fused=True)
    accumulate = meta_gradient(learner, mode=mode)
    accumulate(episode)
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.zero_grad()
        accumulate(episode)
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode(before)


class Solver(MAML):
    """Ridge regression on the answers, by a library of linear algebra."""

    def predict(self, state, x):
        y = super().predict(state, x)
        return torch.linalg.solve(y.mT @ y + torch.eye(y.shape[-1]).to(y), y.mT).mT


def test_what_a_cuda_graph_cannot_hold_is_seen_in_the_operations():
    episode = classification()
    inputs = [*episode.support, *episode.query]
    for learner, solves in (
        (Solver(mlp([5, 7, 3])), True),
        (R2D2(mlp([5, 4]), 3), True),
        (MAML(mlp([5, 7, 3])), False),
    ):
        traced = _Traced(learner.double(), compiled=False)
        weights = {name: p.detach() for name, p in traced.objective.named_parameters()}
        assert _solves(make_fx(traced._gradient)(weights, *inputs)) == solves


@needs_gpu
def test_a_program_that_solves_is_no_graph_and_still_right():
    learner, episode = Solver(mlp([5, 7, 3], nn.Tanh), inner_lr=0.1).double().cuda(), classification(device="cuda")
    got = gradients(learner, episode, mode="traced")
    torch.testing.assert_close(got, gradients(learner, episode), rtol=1e-9, atol=1e-11)
