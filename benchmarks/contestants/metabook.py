"""metabook: its learners, its networks, `meta_gradient`."""

from __future__ import annotations

from functools import partial

from benchmarks.steps import Skip
from metabook import MAML, evaluate
from metabook.generative import ConditionalNeuralProcess
from metabook.gradient import meta_gradient
from metabook.metric import PrototypicalNetwork
from metabook.networks import conv4, mlp
from metabook.optimization.feature_reuse import ANIL
from metabook.optimization.reptile import Reptile
from metabook.tasks import TaskDistribution


def network(work):
    """metabook's own network, with the same parameters in the same order as the plain one."""
    if work.network == "mlp":
        return mlp([1, 40, 40, 1])
    if work.network == "cnp":
        return ConditionalNeuralProcess()
    outputs = None if work.method == "protonet" else work.ways
    return conv4(channels=work.width, outputs=outputs, image_size=work.image_size)


def gradient(work, learner, mode="eager", precision="float32"):
    if mode == "compiled" and work.chunk and (work.inner_steps, work.tasks) not in ((1, 4), (5, 4)):
        raise Skip("compiles for minutes; the row of four tasks has the same program, since a chunk is four tasks")
    return meta_gradient(learner, chunk=work.chunk, mode=mode, precision=precision)


def maml(work, network, recompute=False, **how):
    return gradient(work, MAML(network, work.inner_lr, work.inner_steps, recompute=recompute), **how)


def fomaml(work, network, **how):
    return gradient(work, MAML(network, work.inner_lr, work.inner_steps, first_order=True), **how)


def anil(work, network, **how):
    return gradient(work, ANIL(network[:-1], network[-1], work.inner_lr, work.inner_steps), **how)


def reptile(work, network, **how):
    return gradient(work, Reptile(network, work.inner_lr, work.inner_steps), **how)


def protonet(work, network, **how):
    return gradient(work, PrototypicalNetwork(network, work.ways), **how)


def cnp(work, network, mode="eager", precision="float32"):
    if mode != "eager":
        raise Skip("one program per shape of episode, and here the number of observed points varies")
    return gradient(work, network)


def evaluation(work, network):
    learner = MAML(network, work.inner_lr, work.inner_steps)
    return lambda episode: evaluate(learner, Given(episode), n=episode.tasks).per_task


def sampling(work, tasks):
    return partial(tasks.sample, work.tasks, tasks.generator(0))


class Given(TaskDistribution):
    """Hands out the tasks of one episode, in order."""

    def __init__(self, episode):
        self.device, self.rest, self.parts = episode.support.x.device, episode, None

    def sample(self, n, generator):
        self.parts = self.parts or iter(self.rest.split(n))
        return next(self.parts)
