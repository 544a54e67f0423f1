"""The meta-gradient of a batch of tasks: whole or chunk by chunk, as code, as a program, or as machine code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from metabook.episode import Episode, Set
from metabook.learner import Learner, per_task_score

MODES = ("eager", "traced", "compiled")
PRECISIONS = ("float32", "tf32", "bfloat16")


def meta_gradient(
    learner: Learner, chunk: int | None = None, mode: str = "eager", precision: str = "float32"
) -> Callable[[Episode], Tensor]:
    """A function that adds the gradient of the mean meta-loss of an episode to the `.grad` of the learner.

    Args:
        learner: whose parameters receive the gradient.
        chunk: tasks differentiated at a time; all of them by default.  It bounds the memory; the gradient is the same.
        mode: "eager" runs the learner's code at every call.  "traced" runs it once for each shape of episode, writes
            down the operations that remain, inner loop and its derivative included, and repeats those: no Python and
            no transforms, for seconds at the first call.  "compiled" gives the same operations to `torch.compile`,
            which makes small networks several times faster still, for a minute or several at the first call.
            Traced and compiled, the learner's settings (rates, numbers of steps) stay those of the first call, and on
            a GPU the program becomes a CUDA graph, unless it solves linear systems: one call launches all its kernels.
        precision: of matrix products and convolutions.  "float32" reads all of their inputs, whatever torch is set to.
            "tf32" reads 10 bits of each mantissa on GPUs that can; on a CPU it is the same as float32.  "bfloat16"
            reads 7 bits, and stores the products so.  Weights, inner updates, normalisation, losses and gradients
            stay float32.

    Returns:
        `accumulate(episode) -> (2,)`: mean loss and mean score over tasks, on the learner's device.  Nothing in it
        waits for a GPU.

    Raises:
        ValueError: an unknown mode or precision; `accumulate`: an episode that the learner cannot work on.
    """
    for name, value, known in (("mode", mode, MODES), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    differentiate = _eager(learner) if mode == "eager" else _Traced(learner, compiled=mode == "compiled")

    def accumulate(episode: Episode) -> Tensor:
        learner.check(episode)
        total = torch.zeros(2, device=episode.support.x.device)
        with _precision(precision, total.device.type):
            for part in episode.split(chunk or episode.tasks):
                share = part.tasks / episode.tasks
                total.add_(differentiate(part, share), alpha=share)
        return total

    return accumulate


@contextmanager
def _precision(name: str, device: str) -> Iterator[None]:
    if name == "bfloat16":
        with torch.autocast(device, torch.bfloat16, cache_enabled=False):  # a cache would outlive the inner loop
            yield
    elif device != "cuda":
        yield
    else:
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        _let_float32_be(*(("high", True) if name == "tf32" else ("highest", False)))
        try:
            yield
        finally:
            _let_float32_be(*before)


def _let_float32_be(products: str, tf32_convolutions: bool) -> None:
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32 = tf32_convolutions


def _eager(learner: Learner) -> Callable[[Episode, float], Tensor]:
    def differentiate(episode: Episode, share: float) -> Tensor:
        loss, prediction = learner.loss_and_prediction(episode)
        (share * loss).backward()
        return _loss_and_score(loss.detach(), prediction.detach(), episode)

    return differentiate


def _loss_and_score(loss: Tensor, prediction: Tensor, episode: Episode) -> Tensor:
    score = per_task_score(prediction, episode.query.y).mean()
    return torch.stack([loss.to(score), score])


class _Objective(nn.Module):
    """The learner as a module whose call is what is differentiated."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, episode: Episode) -> tuple[Tensor, Tensor]:
        return self.learner.loss_and_prediction(episode)


class _Traced:
    """Meta-gradients by a program for each kind of call: the memory layout of the episode, and what is trained.

    `make_fx` records the operations that remain when vmap, the inner gradients and the outer gradient have been carried
    out: a flat list of calls of kernels.
    """

    def __init__(self, learner: Learner, compiled: bool) -> None:
        self.objective, self.finish = _Objective(learner), _compiled if compiled else torch.no_grad()
        self.programs: dict[tuple, Callable] = {}

    def __call__(self, episode: Episode, share: float) -> Tensor:
        inputs = [*episode.support, *episode.query]
        parameters = {name: p for name, p in self.objective.named_parameters() if p.requires_grad}
        weights = {name: p.detach() for name, p in parameters.items()}
        kind = (*parameters, *((t.shape, t.stride(), t.dtype, t.device) for t in inputs))
        if kind not in self.programs:
            self.programs[kind] = self._write(weights, inputs)
        with torch.autocast(episode.support.x.device.type, enabled=False):  # the program says what is cast
            gradient, result = self.programs[kind](weights, *inputs)
        for p in parameters.values():
            if p.grad is None:
                p.grad = torch.zeros_like(p)  # in the layout of the parameter, as optimisers expect
        torch._foreach_add_([p.grad for p in parameters.values()], [gradient[n] for n in parameters], alpha=share)
        return result

    def _write(self, weights: dict[str, Tensor], inputs: list[Tensor]) -> Callable:
        if not inputs[0].is_cuda:
            return self.finish(make_fx(self._gradient)(weights, *inputs))
        weights, inputs = {name: w.clone() for name, w in weights.items()}, [t.clone() for t in inputs]
        operations = make_fx(self._gradient)(weights, *inputs)
        program = self.finish(operations)
        if _solves(operations):
            return program
        with torch.autocast("cuda", enabled=False):
            return _graph(program, weights, inputs)

    def _gradient(self, weights: dict[str, Tensor], *inputs: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        episode = Episode(Set(*inputs[:2]), Set(*inputs[2:]))

        def loss(weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            return functional_call(self.objective, weights, (episode,))

        gradient, (value, prediction) = grad_and_value(loss, has_aux=True)(weights)
        return gradient, _loss_and_score(value, prediction, episode)


def _compiled(program: GraphModule) -> Callable:
    """Machine code, entered without guards: `_Traced` knows that the kind is right.

    On a CPU the calls between the kernels are compiled as well.  Beside convolutions that saves nothing, and some of
    the operations around them can only be called from Python.
    """
    nodes = program.graph.nodes
    small = not any(node.target is torch.ops.aten.convolution.default for node in nodes)
    on_cpu = all(node.meta["val"].device.type == "cpu" for node in nodes if node.op == "placeholder")
    options = {"guard_filter_fn": torch.compiler.skip_all_guards_unsafe, "cpp_wrapper": small and on_cpu}
    return torch.compile(program, options=options)


def _solves(program: GraphModule) -> bool:
    """Whether there is linear algebra in it beyond products, whose libraries cannot be part of a CUDA graph."""
    words = ("linalg", "cholesky", "triangular", "lu_", "eig", "svd", "inverse", "lstsq")
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    return any(word in name for name in names for word in words)


def _graph(program: Callable, weights: dict[str, Tensor], inputs: list[Tensor]) -> Callable:
    """A program as a CUDA graph, which works on `weights` and `inputs`, where the arguments of a call are copied to.

    A program that makes the host wait cannot be one, and is returned as it is.

    Raises:
        RuntimeError: it has another operation that cannot be part of a graph.
    """
    before = torch.cuda.get_sync_debug_mode()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(stream):
            program(weights, *inputs)  # libraries are loaded, kernels compiled and chosen
            torch.cuda.set_sync_debug_mode("error")
            program(weights, *inputs)
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        return program
    finally:
        torch.cuda.set_sync_debug_mode(before)
        torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            outputs = program(weights, *inputs)
    except RuntimeError as error:
        raise RuntimeError(
            'an operation of this learner cannot be part of a CUDA graph; use mode="eager" on a GPU, in a new process'
        ) from error

    def replay(new_weights: dict[str, Tensor], *new_inputs: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        torch._foreach_copy_(list(weights.values()), list(new_weights.values()))
        for old, new in zip(inputs, new_inputs, strict=True):
            old.copy_(new)
        graph.replay()
        return outputs

    return replay
