"""How good is a learner?  Scores over tasks it never saw, with an interval over tasks.

The task is the unit that was drawn at random, so the interval is over tasks.  Queries of one task share its
difficulty: an interval over pooled queries is too narrow.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor

from metabook.distributed import Processes
from metabook.episode import is_classification
from metabook.learner import Learner, per_task_score
from metabook.tasks.distribution import TaskDistribution, check_counts


@dataclass(frozen=True)
class Scores:
    """Scores of many tasks.

    per_task: `(tasks,)` on the CPU, accuracy as a fraction or mean squared error.
    metric: "accuracy" or "mse" (or what the difference of two such scores is called).
    protocol: what was measured, in words.
    """

    per_task: Tensor
    metric: str = "accuracy"
    protocol: str = ""

    @property
    def mean(self) -> float:
        """Mean over tasks."""
        return self.per_task.double().mean().item()

    @property
    def ci95(self) -> float:
        """Half-width of the 95 % normal interval of the mean, over tasks; nan for a single task."""
        if len(self.per_task) < 2:
            return float("nan")
        return 1.96 * self.per_task.double().std().item() / len(self.per_task) ** 0.5

    def __str__(self) -> str:
        if self.metric == "accuracy":
            return f"{100 * self.mean:.1f} ± {100 * self.ci95:.1f} %"
        return f"{self.mean:.3f} ± {self.ci95:.3f}"

    def __repr__(self) -> str:
        return f"Scores({self.metric} {self}, {len(self.per_task)} tasks)"


@dataclass(frozen=True)
class Comparison:
    """Two learners on the same episodes; `difference` is a minus b, task by task."""

    a: Scores
    b: Scores
    difference: Scores

    def __str__(self) -> str:
        return f"{self.a} against {self.b}: difference {self.difference}"


@torch.no_grad()
def evaluate(
    learner: Learner,
    tasks: TaskDistribution,
    *,
    n: int = 600,
    seed: int = 0,
    batch: int = 25,
    processes: Processes | None = None,
) -> Scores:
    """Score a learner on `n` fresh tasks.

    Args:
        learner: it is put in evaluation mode for the time being.
        tasks: where episodes come from.
        n: number of tasks; 600 is the field's habit.
        seed: the same seed and batch give the same episodes to every learner.
        batch: tasks sampled and adapted at a time, which bounds the memory.
        processes: those that take turns with the batches; all must make the same call, and all get the scores that
            one would compute alone.  By default this process works alone.

    Returns:
        Per-task accuracy (classes) or mean squared error (values), with mean and 95 % interval.

    Raises:
        ValueError: `n` or `batch` below one, or episodes that the learner cannot work on.
    """
    check_counts(n=n, batch=batch)
    processes = processes or Processes()
    generator, training, scores = tasks.generator(seed), learner.training, []
    learner.eval()
    try:
        for number, start in enumerate(range(0, n, batch)):
            episode = tasks.sample(min(batch, n - start), generator)
            if number % processes.size == processes.rank:
                learner.check(episode)
                scores.append(per_task_score(learner(episode), episode.query.y))
    finally:
        learner.train(training)
    turns = zip_longest(*processes.gather([part.cpu() for part in scores]))  # batches in the order they were drawn
    per_task = torch.cat([part for turn in turns for part in turn if part is not None])
    metric = "accuracy" if is_classification(episode.query.y) else "mse"
    how = "transductive batch statistics" if learner.transductive else "each query on its own"
    return Scores(per_task, metric, f"{tasks!r}; {n} tasks, seed {seed}; {how}")


def compare(
    a: Learner, b: Learner, tasks: TaskDistribution, *, n: int = 600, seed: int = 0, batch: int = 25
) -> Comparison:
    """Score two learners on the same episodes; the paired difference cancels what the tasks have in common.

    Arguments as in `evaluate`.  The interval of `difference` decides whether one is better.
    """
    first = evaluate(a, tasks, n=n, seed=seed, batch=batch)
    second = evaluate(b, tasks, n=n, seed=seed, batch=batch)
    difference = Scores(first.per_task - second.per_task, first.metric, f"paired: {first.protocol}")
    return Comparison(first, second, difference)
