"""Meta-training: the outer loop, for any learner, any distribution over tasks and any torch optimiser."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from metabook.distributed import Processes
from metabook.episode import Episode
from metabook.evaluation import evaluate
from metabook.gradient import meta_gradient
from metabook.history import History, tensorboard_writer
from metabook.interrupts import DeferredInterrupts, Interrupted
from metabook.learner import Learner
from metabook.progress import progress_bar
from metabook.recorder import Recorder
from metabook.run_state import RunState, describe
from metabook.tasks.distribution import TaskDistribution, check_counts


def meta_train(
    learner: Learner,
    tasks: TaskDistribution,
    *,
    steps: int,
    optimizer: torch.optim.Optimizer,
    meta_batch: int = 4,
    seed: int = 0,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    clip_norm: float | None = None,
    chunk: int | None = None,
    mode: str = "eager",
    precision: str = "float32",
    validation: TaskDistribution | None = None,
    validate_every: int = 500,
    validation_tasks: int = 100,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 500,
    tensorboard: str | Path | None = None,
    on_step: Callable[[int, Learner], None] | None = None,
    progress: bool | None = None,
) -> History:
    """Descend the mean query loss over batches of fresh tasks.

    With a `checkpoint`, a run that was stopped, by Ctrl-C or by pulling the plug, is continued by running the same
    script again: weights, optimiser, schedule, episodes, dropout masks and history go on as if nothing had happened,
    bit for bit on a CPU.  Under `torchrun` every process makes the same call and differentiates its share of each
    meta-batch, with the result of one process.

    Args:
        learner: trained in place.
        tasks: where the training episodes come from.
        steps: outer steps, those of an earlier life of the run included.
        optimizer: any torch optimiser of the learner's parameters.
        meta_batch: tasks per outer step, over all processes.
        seed: of the training episodes.  Initial weights are the caller's to seed.
        scheduler: stepped once per outer step.
        clip_norm: bound on the norm of the meta-gradient.
        chunk: tasks differentiated at a time.  It bounds the memory; the gradient is the same.
        mode: "traced" or "compiled" make every step faster and the first one slower, the former by seconds, the latter
            by minutes; see `metabook.gradient.meta_gradient`.
        validation: tasks to score on, with the same episodes every time.
        validate_every: steps between validations; the last step is always validated.
        validation_tasks: tasks per validation.
        checkpoint: file to continue from if it exists, and to write every `checkpoint_every` steps, at the end and
            when interrupted.  `metabook.restore` takes the last or the best weights from it.  `steps`, `chunk`,
            `mode`, `checkpoint_every`, `progress` and the number of processes may differ from call to call; if
            all steps are done already, the call returns at once.  Torch's global generators are set back, too, unless
            the number of processes changed.
        checkpoint_every: steps between two writes of the checkpoint.
        tensorboard: folder for live scalars (needs the package tensorboard).
        on_step: called as `on_step(step, learner)` after each step, to record what the history does not; on every
            process, where there are several.
        progress: show a bar with loss, score and tasks per second; by default unless the environment sets
            METABOOK_PROGRESS=0.

    Returns:
        The history of the run, from step 1.

    Raises:
        ValueError: counts below one, fewer tasks than processes, or episodes that the learner cannot work on; a
            checkpoint that is damaged, of another run or model, or further than `steps`.  Nothing was changed then.
        OSError: the checkpoint cannot be written; the last good one is intact.
        FloatingPointError: the meta-loss is not finite; the message names the step.  On the CPU the weights are those
            before it.  Other devices work ahead of the host, which reads their losses about every half second:
            there up to 50 steps have followed.  A checkpoint is never written after such a step.
        Interrupted: Ctrl-C or SIGTERM came, the step was finished, and the checkpoint written.  It is a
            KeyboardInterrupt with the `history` so far.  A second one stops at once.
        ImportError: `tensorboard` without its package.
    """
    check_counts(
        steps=steps, meta_batch=meta_batch, chunk=meta_batch if chunk is None else chunk, validate_every=validate_every,
        validation_tasks=validation_tasks, checkpoint_every=checkpoint_every,
    )  # fmt: skip
    if next(learner.parameters(), None) is None:
        raise ValueError(f"{type(learner).__name__} has no parameters, so there is nothing to train; use evaluate")
    device = next(learner.parameters()).device
    processes = Processes.join(device)
    if meta_batch < processes.size:
        raise ValueError(f"meta_batch must give each of the {processes.size} processes a task, got {meta_batch}")
    description = describe(
        learner, tasks, optimizer, scheduler, seed=seed, meta_batch=meta_batch, clip_norm=clip_norm,
        precision=precision, validation=validation, validate_every=validate_every, validation_tasks=validation_tasks,
    )  # fmt: skip
    arguments = {"steps": steps, "checkpoint": checkpoint, "checkpoint_every": checkpoint_every, **description}
    processes.check_equal("arguments of meta_train", arguments)
    run = RunState(learner, optimizer, scheduler, tasks.generator(seed), description, processes)
    learner.train()
    if checkpoint is not None:
        run.open(Path(checkpoint), steps)
    if run.step == steps:
        return run.history
    processes.copy_from_lead(learner)
    writer = tensorboard_writer(tensorboard, run.step) if tensorboard is not None and processes.leads else None
    show = progress if processes.leads else False
    with (
        DeferredInterrupts() as interrupt,
        progress_bar(steps, show, unit="step", initial=run.step) as bar,
        writer or nullcontext(),
    ):
        gradient = _SharedGradient(meta_gradient(learner, chunk, mode, precision), learner, processes, interrupt)
        recorder = Recorder(
            run.history, steps=steps, meta_batch=meta_batch, device=device, processes=processes, bar=bar, writer=writer
        )
        while run.step < steps:
            recorder.start()
            episode = tasks.sample(meta_batch, run.generator)
            optimizer.zero_grad(set_to_none=True)
            recorder.add(gradient(episode))
            if clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(learner.parameters(), clip_norm)
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            run.step += 1
            recorder.stop()
            if on_step is not None:
                on_step(run.step, learner)
            last = run.step == steps
            if validation is not None and (run.step % validate_every == 0 or last):
                recorder.flush()
                recorder.validated(run.step, evaluate(learner, validation, n=validation_tasks, processes=processes))
                if checkpoint is not None:
                    run.keep_best()
            stop = gradient.stop
            if stop or last or (checkpoint is not None and run.step % checkpoint_every == 0):
                recorder.flush()
                if checkpoint is not None:
                    run.save(Path(checkpoint))
            if stop:
                raise Interrupted(_interruption(run.step, steps, checkpoint), run.history)
    return run.history


class _SharedGradient:
    """The meta-gradient of a batch to which every process adds its share, and their agreement on when to stop."""

    def __init__(
        self,
        accumulate: Callable[[Episode], Tensor],
        learner: Learner,
        processes: Processes,
        interrupt: DeferredInterrupts,
    ) -> None:
        self._accumulate, self._processes, self._interrupt = accumulate, processes, interrupt
        self._parameters = [p for p in learner.parameters() if p.requires_grad]
        self._stop = False

    def __call__(self, episode: Episode) -> Tensor:
        """Fill `.grad` with the gradient of the whole episode, and return its loss and score, `(2,)`."""
        if self._processes.size == 1:
            return self._accumulate(episode)
        share = self._processes.share(episode)
        outcome = self._accumulate(share)
        reached = [p.grad is not None for p in self._parameters]
        flags = torch.tensor([float(self._interrupt.requested), *map(float, reached)])
        for parameter in self._parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        tensors = [outcome, *(p.grad for p in self._parameters)]
        for tensor in tensors:
            tensor.mul_(share.tasks / episode.tasks)
        self._processes.sum_([flags, *tensors])
        interrupted, *reaching = flags.tolist()  # on the CPU: nobody waits for a device
        for parameter, count in zip(self._parameters, reaching, strict=True):
            if not count:
                parameter.grad = None  # the optimiser passes it over, as it does in one process
        self._stop = interrupted > 0
        return outcome

    @property
    def stop(self) -> bool:
        """Whether the run ends after this step, on all processes: one of them was interrupted."""
        return self._interrupt.requested if self._processes.size == 1 else self._stop


def _interruption(step: int, steps: int, checkpoint: str | Path | None) -> str:
    if checkpoint is None:
        return f"interrupted after step {step} of {steps}; the history so far is in the attribute history"
    return f"interrupted after step {step} of {steps}; run the same again to continue from {checkpoint}"
