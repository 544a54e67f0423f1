"""Graders of the chapter theory/tasks_and_episodes."""

from typing import Any

import torch
from torch import Tensor

from metabook.checking.compare import Hint, one_of, same_function

GROUPS = torch.tensor([2] * 4 + [0] * 12 + [1] * 3 + [3] * 8)  # sizes 12, 3, 4 and 8
WAYS, DRAWS = 4, 1500


def _one_alphabet(groups: Tensor, ways: int, generator: torch.Generator) -> Tensor:
    large = (groups.bincount() >= ways).nonzero().squeeze(1)
    classes = (groups == large[torch.randint(len(large), (), generator=generator)]).nonzero().squeeze(1)
    return classes[torch.randperm(len(classes), generator=generator)[:ways]]


def _by_class(groups: Tensor, ways: int, generator: torch.Generator) -> Tensor:
    large = (groups.bincount() >= ways)[groups].nonzero().squeeze(1)
    first = large[torch.randint(len(large), (), generator=generator)]
    classes = (groups == groups[first]).nonzero().squeeze(1)
    return classes[torch.randperm(len(classes), generator=generator)[:ways]]


def _small_too(groups: Tensor, ways: int, generator: torch.Generator) -> Tensor:
    classes = (groups == torch.randint(int(groups.max()) + 1, (), generator=generator)).nonzero().squeeze(1)
    return classes[torch.randperm(len(classes), generator=generator)[:ways]]


def _repeated(groups: Tensor, ways: int, generator: torch.Generator) -> Tensor:
    classes = _one_alphabet(groups, 1, generator)
    same = (groups == groups[classes[0]]).nonzero().squeeze(1)
    return same[torch.randint(len(same), (ways,), generator=generator)]


def _across(groups: Tensor, ways: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(len(groups), generator=generator)[:ways]


def _first_ones(groups: Tensor, ways: int, generator: torch.Generator) -> Tensor:
    large = (groups.bincount() >= ways).nonzero().squeeze(1)
    return (groups == large[torch.randint(len(large), (), generator=generator)]).nonzero().squeeze(1)[:ways]


def _ungoverned(groups: Tensor, ways: int, generator: torch.Generator) -> Tensor:
    return _one_alphabet(groups, ways, torch.Generator().manual_seed(int(torch.randint(10**6, ()))))


def _paired(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    d = a.mean(1) - b.mean(1)
    return d.mean(), 1.96 * d.std() / len(d) ** 0.5


def _unpaired(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    variance = a.mean(1).var() + b.mean(1).var()
    return a.mean() - b.mean(), 1.96 * (variance / len(a)) ** 0.5


def _pooled(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    d = (a - b).flatten()
    return d.mean(), 1.96 * d.std() / len(d) ** 0.5


def _one_standard_error(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    mean, half = _paired(a, b)
    return mean, half / 1.96


def _of_one_task(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    d = a.mean(1) - b.mean(1)
    return d.mean(), 1.96 * d.std()


def _whole_width(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    mean, half = _paired(a, b)
    return mean, 2 * half


WRONG = {
    "one_alphabet": [
        (_across, "more than one alphabet"),
        (_repeated, "twice"),
        (_small_too, "fewer than"),
        (_by_class, "equally likely"),
        (_first_ones, "some classes never"),
        (_ungoverned, "same generator state"),
        (lambda groups, ways, generator: [1, 2, 3, 4], "int64 tensor"),
    ],
    "paired": [
        (_unpaired, "Both learners met the same tasks: what is the spread of the difference, task by task?"),
        (_pooled, "The answers of one task are not independent: which unit was drawn?"),
        (_one_standard_error, "This is one standard error: it covers about 68 %."),
        (_of_one_task, "This is the spread of single tasks: how does a mean of n tasks vary?"),
        (_whole_width, "This is the whole width: the half-width is asked for."),
    ],
    "budget": [
        ("100 tasks of 75", "How much is the 75th answer of a task worth when the first 74 are known?"),
        ("500 tasks of 15", "Better than 75 queries per task. Does the design effect stop there?"),
    ],
}


def one_alphabet(answer: Any) -> None:
    """different classes of one alphabet, each large enough alphabet equally likely, and the generator decides."""
    if not callable(answer):
        raise Hint("a function is asked for.")
    generator, draws = torch.Generator().manual_seed(0), []
    for _ in range(DRAWS):
        classes = answer(GROUPS.clone(), WAYS, generator)
        if not isinstance(classes, Tensor) or classes.dtype != torch.int64 or classes.ndim != 1:
            raise Hint("return the classes as an int64 tensor of one dimension.")
        _check_draw(classes)
        draws.append(classes)
    alphabets = GROUPS[torch.stack(draws)[:, 0]].bincount(minlength=4)
    if (alphabets[[0, 2, 3]] - DRAWS / 3).abs().max() > 5 * (DRAWS * 2 / 9) ** 0.5:
        raise Hint("the alphabets are not equally likely: do large ones come more often, or some never?")
    if torch.stack(draws).unique().numel() < 24:
        raise Hint("some classes never appear: draw among all classes of the alphabet.")
    again = [answer(GROUPS.clone(), WAYS, torch.Generator().manual_seed(7)).tolist() for _ in range(8)]
    if any(classes != again[0] for classes in again):
        raise Hint("the same generator state must give the same classes: pass generator= to every random draw.")


def _check_draw(classes: Tensor) -> None:
    if len(classes) < WAYS:
        raise Hint(f"asked for {WAYS} classes, it returned {len(classes)}: an alphabet with fewer than that was drawn.")
    if len(classes) > WAYS:
        raise Hint(f"asked for {WAYS} classes, it returned {len(classes)}.")
    if classes.min() < 0 or classes.max() >= len(GROUPS):
        raise Hint("classes are positions in groups; this one returned a number outside.")
    if GROUPS[classes].unique().numel() > 1:
        raise Hint("the classes come from more than one alphabet.")
    if classes.unique().numel() < WAYS:
        raise Hint("a class was drawn twice: they must differ.")


def paired(answer: Any) -> None:
    """the interval of the paired difference, with the task as the unit."""
    generator, cases = torch.Generator().manual_seed(0), []
    for tasks, queries in [(40, 15), (25, 8)]:
        level = torch.rand(tasks, 1, generator=generator)
        a, b = ((torch.rand(tasks, queries, generator=generator) < p).float() for p in (level, 0.8 * level))
        cases.append((a, b))
    same_function(answer, _paired, cases, wrong=WRONG["paired"])


def budget(answer: Any) -> None:
    """few queries in many tasks: the design effect grows with the queries of a task."""
    one_of(answer, "1500 tasks of 5", dict(WRONG["budget"]))
