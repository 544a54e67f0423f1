"""Meta-training: the outer loop, for any learner, any distribution over tasks and any torch optimiser."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm.std import tqdm

from metabook.episode import Episode
from metabook.evaluation import Scores, evaluate
from metabook.learner import Learner, per_task_score
from metabook.progress import progress_bar
from metabook.tasks.distribution import TaskDistribution, check_counts


@dataclass
class History:
    """What happened at every step of a run.

    loss: meta-loss before the step.
    score: mean query accuracy or mean squared error of the meta-batch, before the step.
    tasks_per_second: throughput of the step; it differs from run to run.
    validation: `(step, Scores)` pairs.
    """

    loss: list[float] = field(default_factory=list)
    score: list[float] = field(default_factory=list)
    tasks_per_second: list[float] = field(default_factory=list)
    validation: list[tuple[int, Scores]] = field(default_factory=list)

    @property
    def steps(self) -> list[int]:
        """Step numbers, from 1."""
        return list(range(1, len(self.loss) + 1))

    def plot(self, ax: Any = None) -> Any:
        """Draw training and validation scores over steps (the loss where nothing was validated); returns the axes."""
        from metabook.plotting import plot_history  # matplotlib is loaded when something is drawn

        return plot_history(self, ax=ax)


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
    validation: TaskDistribution | None = None,
    validate_every: int = 500,
    validation_tasks: int = 100,
    on_step: Callable[[int, Learner], None] | None = None,
    progress: bool | None = None,
) -> History:
    """Descend the mean query loss over batches of fresh tasks.

    Args:
        learner: trained in place.
        tasks: where the training episodes come from.
        steps: outer steps.
        optimizer: any torch optimiser of the learner's parameters.
        meta_batch: tasks per outer step.
        seed: of the training episodes.  Initial weights are the caller's to seed.
        scheduler: stepped once per outer step.
        clip_norm: bound on the norm of the meta-gradient.
        chunk: tasks differentiated at a time.  It bounds the memory; the gradient is the same.
        validation: tasks to score on, with the same episodes every time.
        validate_every: steps between validations; the last step is always validated.
        validation_tasks: tasks per validation.
        on_step: called as `on_step(step, learner)` after each step, to record what the history does not.
        progress: show a bar with loss, score and tasks per second; by default unless the environment sets
            METABOOK_PROGRESS=0.

    Returns:
        The history of the run.

    Raises:
        ValueError: counts below one, or episodes that the learner cannot work on.
        FloatingPointError: the meta-loss is not finite; the message names the step, and the weights are those
            before it.
    """
    check_counts(
        steps=steps, meta_batch=meta_batch, chunk=meta_batch if chunk is None else chunk, validate_every=validate_every,
        validation_tasks=validation_tasks,
    )  # fmt: skip
    if next(learner.parameters(), None) is None:
        raise ValueError(f"{type(learner).__name__} has no parameters, so there is nothing to train; use evaluate")
    generator, history = tasks.generator(seed), History()
    learner.train()
    with progress_bar(steps, progress, unit="step") as bar:
        for step in range(1, steps + 1):
            started = time.perf_counter()
            episode = tasks.sample(meta_batch, generator)
            optimizer.zero_grad(set_to_none=True)
            loss, score = _accumulate(learner, episode, chunk or meta_batch)
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"the meta-loss is {loss} at step {step} of {steps}; lower the outer or inner rate, clip the "
                    "gradient with clip_norm, or look at the episode that this step drew"
                )
            if clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(learner.parameters(), clip_norm)
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            history.loss.append(loss)
            history.score.append(score)
            history.tasks_per_second.append(meta_batch / (time.perf_counter() - started))
            if on_step is not None:
                on_step(step, learner)
            if validation is not None and (step % validate_every == 0 or step == steps):
                history.validation.append((step, evaluate(learner, validation, n=validation_tasks)))
            _report(bar, history)
    return history


def _accumulate(learner: Learner, episode: Episode, chunk: int) -> tuple[float, float]:
    """Add the gradient of the mean meta-loss to `.grad`, chunk by chunk; mean loss and score over all tasks."""
    total = torch.zeros(2, device=episode.support.x.device)
    for part in episode.split(chunk):
        loss, prediction = learner.loss_and_prediction(part)
        share = part.tasks / episode.tasks
        (share * loss).backward()
        total += share * torch.stack([loss.detach(), _score(prediction, part)]).to(total)
    loss, score = total.tolist()
    return loss, score


def _score(prediction: Tensor, episode: Episode) -> Tensor:
    return per_task_score(prediction.detach(), episode.query.y).mean()


def _report(bar: tqdm, history: History) -> None:
    recent = slice(-20, None)
    mean = {name: sum(v[recent]) / len(v[recent]) for name, v in vars(history).items() if name != "validation"}
    bar.set_postfix_str(
        f"loss {mean['loss']:.3g}, score {mean['score']:.3g}, {mean['tasks_per_second']:.0f} tasks/s",
        refresh=bar.n == bar.total - 1,
    )
    bar.update()
