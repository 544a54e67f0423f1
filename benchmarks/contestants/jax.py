"""JAX: one task as a function, the tasks together under `grad` and `jit`.

Images are (height, width, channels), which is what JAX's users write.  Tasks are put together by `vmap`, but for Conv4
on a CPU: there `vmap` makes a grouped convolution, which was 7 times slower than the tasks written out one after the
other in one program (`lax.map` was slower still).  Compilation grows with their number, so it is four at a time.
Pooling by `reshape` and `max` is faster, but at 64 channels its gradient came out wrong on a CPU (jax 0.10.2), so it
is `reduce_window`, as in flax.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.steps import Skip
from benchmarks.workloads import EVALUATION


def mlp(weights, x):
    pairs = list(zip(weights[::2], weights[1::2], strict=True))
    for w, b in pairs[:-1]:
        x = jax.nn.relu(x @ w.T + b)
    w, b = pairs[-1]
    return x @ w.T + b


def features(weights, x):
    for kernel, scale, shift in zip(*(weights[i:12:3] for i in range(3)), strict=True):
        x = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
        x = jax.nn.relu((x - mean) * lax.rsqrt(variance + 1e-5) * scale + shift)
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return x.reshape(len(x), -1)


def conv4(weights, x):
    return mlp(weights[12:], features(weights, x))


def loss(prediction, y):
    if jnp.issubdtype(y.dtype, jnp.integer):
        return -jnp.take_along_axis(jax.nn.log_softmax(prediction), y[:, None], 1).mean()
    return jnp.square(prediction - y).mean()


def descend(support_loss, weights, work, first_order=False):
    for _ in range(work.inner_steps):
        gradient = jax.grad(support_loss)(weights)
        gradient = lax.stop_gradient(gradient) if first_order else gradient
        weights = [w - work.inner_lr * g for w, g in zip(weights, gradient, strict=True)]
    return weights


def one_after_the_other(task):
    """As `jax.vmap(task)`, but written out."""

    def tasks(*episode):
        results = [task(*(part[i] for part in episode)) for i in range(len(episode[0]))]
        return jax.tree.map(lambda *parts: jnp.stack(parts), *results)

    return tasks


def gradient_of(task_loss, over):
    """The gradient of the mean of the losses of all tasks."""
    return jax.grad(lambda weights, *episode: over(partial(task_loss, weights))(*episode).mean())


def maml(work, network, over, first_order=False):
    def task_loss(weights, sx, sy, qx, qy):
        adapted = descend(lambda w: loss(network(w, sx), sy), weights, work, first_order)
        return loss(network(adapted, qx), qy)

    return gradient_of(task_loss, over)


fomaml = partial(maml, first_order=True)


def anil(work, network, over):
    def task_loss(weights, sx, sy, qx, qy):
        embedded = features(weights, sx)
        head = descend(lambda w: loss(mlp(w, embedded), sy), weights[12:], work)
        return loss(mlp(head, features(weights, qx)), qy)

    return gradient_of(task_loss, over)


def reptile(work, network, over):
    def difference(weights, sx, sy, qx, qy):
        x, y = jnp.concatenate([sx, qx]), jnp.concatenate([sy, qy])
        adapted = descend(lambda w: loss(network(w, x), y), weights, work)
        return [theta - phi for theta, phi in zip(weights, adapted, strict=True)]

    def gradient(weights, *episode):
        differences = over(partial(difference, weights))(*episode)
        return [d.mean(0) for d in differences]

    return gradient


def protonet(work, network, over):
    def task_loss(weights, sx, sy, qx, qy):
        members = jax.nn.one_hot(sy, work.ways, dtype=sx.dtype)
        centres = members.T @ features(weights, sx) / members.sum(0)[:, None]
        return loss(-jnp.square(features(weights, qx)[:, None] - centres).sum(-1), qy)

    return gradient_of(task_loss, over)


def cnp(work, network, over):
    """The number of observed points varies, and `jit` wants fixed shapes: all points, and a mask of the observed."""

    def episode_loss(weights, x, y, observed):
        embedded = mlp(weights[:8], jnp.concatenate([x, y], -1)) * observed[:, None]
        r = jnp.broadcast_to(embedded.sum(1, keepdims=True) / observed.sum(), (*x.shape[:2], embedded.shape[-1]))
        mean, raw = jnp.split(mlp(weights[8:], jnp.concatenate([x, r], -1)), 2, axis=-1)
        return -jax.scipy.stats.norm.logpdf(y, mean, 0.1 + 0.9 * jax.nn.softplus(raw)).mean()

    return jax.grad(episode_loss)


def evaluation(work, network, over):
    def task_score(weights, sx, sy, qx, qy):
        adapted = descend(lambda w: loss(network(w, sx), sy), weights, work)
        prediction = network(adapted, qx)
        if jnp.issubdtype(qy.dtype, jnp.integer):
            return (prediction.argmax(-1) == qy).mean()
        return jnp.square(prediction - qy).mean()

    return lambda weights, *episode: [over(partial(task_score, weights))(*episode)]


def start(work, weights, device, dtype, **options):
    """What `benchmarks.steps.start` is for the others."""
    if (jax.default_backend() == "gpu") != (device == "cuda"):
        raise Skip(f"jax runs on {jax.default_backend()}, not on {device}")
    if work.method not in globals():
        raise Skip("has none")
    written_out = work.network == "conv4" and device == "cpu"
    network, over = {"mlp": mlp, "conv4": conv4, "cnp": None}[work.network], one_after_the_other
    method = globals()[work.method](work, network, over if written_out else jax.vmap)
    at_a_time = 4 if written_out else 25 if work.method == EVALUATION else None
    weights = [to_jax(w) for w in weights.values()]
    return Steps(work, method, at_a_time, weights, str(dtype).removeprefix("torch."))


def to_jax(w):
    return w.transpose(2, 3, 1, 0) if w.ndim == 4 else w


class Steps:
    """Steps of training or evaluation, on JAX's arrays; see `benchmarks.steps`."""

    def __init__(self, work, method, at_a_time, weights, dtype):
        self.work, self.at_a_time, self.dtype = work, at_a_time, dtype
        with self.precision():
            self.weights = [jnp.asarray(w, dtype) for w in weights]
        self.moments = [[jnp.zeros_like(w) for w in self.weights] for _ in range(2)]
        self.count, self.compute = 0, jax.jit(method)
        self.update = jax.jit(adam, donate_argnums=(0, 1))
        self.whole_step = jax.jit(lambda w, m, n, *episode: adam(w, m, n, method(w, *episode)), donate_argnums=(0, 1))

    def precision(self):
        return jax.enable_x64(self.dtype == "float64")

    def prepare(self, episode):
        arrays = [np.asarray(t.cpu()) for part in episode for t in part]
        if self.work.network == "cnp":
            sx, sy, qx, qy = arrays
            observed = np.arange(sx.shape[1] + qx.shape[1]) < sx.shape[1]
            arrays = [np.concatenate([sx, qx], 1), np.concatenate([sy, qy], 1), observed]
        arrays = [a.transpose(0, 1, 3, 4, 2) if a.ndim == 5 else a for a in arrays]
        with self.precision():
            return jax.block_until_ready(
                [jnp.asarray(a, self.dtype if a.dtype.kind in "fb" else jnp.int32) for a in arrays]
            )

    def parts(self, episode):
        tasks, size = len(episode[0]), self.at_a_time
        return [self.compute(self.weights, *(part[i : i + size] for part in episode)) for i in range(0, tasks, size)]

    def results(self, episode):
        if self.at_a_time is None:
            return self.compute(self.weights, *episode)
        join = (lambda *p: sum(p) / len(p)) if self.work.trains else lambda *p: jnp.concatenate(p)
        return jax.tree.map(join, *self.parts(episode))

    def check(self, episode):
        with self.precision():
            results = self.results(episode)
        return [np.asarray(g.transpose(3, 2, 0, 1) if g.ndim == 4 else g) for g in results]

    def step(self, episode):
        if not self.work.trains:
            jax.block_until_ready(self.results(episode))
            return
        self.count += 1
        if self.at_a_time is None:
            self.weights, self.moments = self.whole_step(self.weights, self.moments, self.count, *episode)
        else:
            self.weights, self.moments = self.update(self.weights, self.moments, self.count, self.results(episode))
        jax.block_until_ready(self.weights)


def adam(weights, moments, count, gradient):
    """Adam with PyTorch's defaults (D. Kingma, J. Ba, 2015, algorithm 1)."""
    first = [0.9 * m + 0.1 * g for m, g in zip(moments[0], gradient, strict=True)]
    second = [0.999 * v + 0.001 * g * g for v, g in zip(moments[1], gradient, strict=True)]
    new = [
        w - 1e-3 * (m / (1 - 0.9**count)) / (jnp.sqrt(v / (1 - 0.999**count)) + 1e-8)
        for w, m, v in zip(weights, first, second, strict=True)
    ]
    return new, [first, second]
