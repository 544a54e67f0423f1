"""Every contestant that is installed computes what the naive loop computes, in float64, at sizes of a toy."""

import importlib
from dataclasses import replace

import pytest
import torch

from benchmarks import steps
from benchmarks.contest import TOLERANCE, _agreement
from benchmarks.contestants import CONTESTANTS, REFERENCE
from benchmarks.workloads import WORKLOADS, episodes, initial_weights, load, plain_network

METHODS = {(work.method, work.network): work for work in WORKLOADS}  # one row of each
PEERS = [c for c in CONTESTANTS if not c.reuse_memory and not c.options]


def tiny(work):
    return replace(work, tasks=2, width=4, image_size=16, classes=25, ways=3, inner_steps=2, inner_lr=0.1)


def result(contestant, work, episode):
    module = importlib.import_module(f"benchmarks.contestants.{contestant.module}")
    weights = initial_weights(work)
    if hasattr(module, "start"):
        contest = module.start(work, weights, "cpu", torch.float64)
    else:
        contest = steps.start(module, work, weights, "cpu", torch.float64)
    return contest.check(contest.prepare(episode))


@pytest.mark.filterwarnings("ignore")  # of the peers about themselves
@pytest.mark.parametrize("method", METHODS, ids="-".join)
@pytest.mark.parametrize("contestant", PEERS[1:], ids=lambda c: c.name)
def test_agrees_with_the_naive_loop(contestant, method):
    if not contestant.installed:
        pytest.skip(f"{contestant.name} is not installed")
    work = tiny(METHODS[method])
    episode = next(episodes(work)).to(torch.float64)
    try:
        got = result(contestant, work, episode)
    except steps.Skip as reason:
        assert not contestant.ours, reason
        pytest.skip(f"{contestant.name}: {reason}")
    agreement = _agreement(got, result(REFERENCE, work, episode), "loop")
    assert not agreement.failed, agreement.absent
    assert agreement.deviation < TOLERANCE


def test_chunks_change_nothing():
    ours = next(c for c in PEERS if c.ours)
    work = tiny(METHODS["maml", "conv4"])
    episode = next(episodes(work)).to(torch.float64)
    whole, parts = result(ours, work, episode), result(ours, replace(work, chunk=1), episode)
    assert not _agreement(parts, whole, "the whole").failed


def test_the_same_seed_gives_every_contestant_the_same_episodes():
    for work in map(tiny, METHODS.values()):
        one, other = episodes(work), episodes(work)
        for _ in range(2):
            for part, same in zip(next(one), next(other), strict=True):
                assert torch.equal(part.x, same.x) and torch.equal(part.y, same.y)


def test_weights_of_another_shape_are_refused():
    work = tiny(METHODS["maml", "conv4"])
    with pytest.raises(ValueError, match="its initial weights"):
        load(plain_network(replace(work, width=8)), initial_weights(work), "cpu", torch.float32)


def test_jax_updates_as_torch_does():
    """One step of Adam from the same gradient: the same weights, so that both do the same work."""
    jax = pytest.importorskip("jax")
    from benchmarks.contestants import jax as ours

    gradient = [torch.tensor([0.5, -2.0])]
    network = torch.nn.Linear(2, 1, bias=False)
    start = network.weight.detach().clone()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    weights, moments = [jax.numpy.asarray(start[0].numpy())], [[jax.numpy.zeros(2)], [jax.numpy.zeros(2)]]
    for count in (1, 2):
        network.weight.grad = gradient[0][None].clone()
        optimizer.step()
        weights, moments = ours.adam(weights, moments, count, [jax.numpy.asarray(gradient[0].numpy())])
    torch.testing.assert_close(torch.tensor(weights[0].tolist()), network.weight.detach()[0])
