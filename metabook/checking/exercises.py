"""Exercises: `check("maml-one-step", answer)` asks the grader `one_step` of `graders/maml.py`."""

from __future__ import annotations

import dis
import importlib
import inspect
from collections.abc import Callable
from importlib.util import find_spec
from types import FunctionType
from typing import Any

from metabook.checking.compare import Hint

GRADERS = "metabook.checking.graders"  # one module for each chapter; the pages of the library leave the answers out
IDLE = {"RESUME", "NOP", "POP_TOP", "LOAD_CONST", "LOAD_COMMON_CONSTANT", "RETURN_VALUE", "RETURN_CONST"}
UNANSWERED = "not answered yet. Replace the dots, then run the cell again."


def check(exercise: str, answer: Any) -> None:
    """Grade the answer to an exercise and print one line: right, a hint, or not answered yet.

    It never raises because of the answer, so a chapter runs to its end whatever the reader wrote.

    Args:
        exercise: the label of the exercise, `<chapter>-<exercise>` with hyphens.
        answer: what the exercise asks for: a number, a choice, a tensor, a function, a tuple of these.

    Raises:
        ValueError: there is no exercise of that name.
    """
    passed, message = grade(exercise, answer)
    sign = {True: "✓", False: "✗", None: "…"}[passed]
    print(f"{sign} {exercise}: {message}")


def grade(exercise: str, answer: Any) -> tuple[bool | None, str]:
    """The verdict of `check`, not printed: whether the answer is right (None: not answered), and in words."""
    grader = find_grader(exercise)
    if is_unanswered(answer):
        return None, UNANSWERED
    try:
        grader(answer)
    except Hint as hint:
        return False, str(hint)
    except Exception as error:  # the answer is of a kind that its grader did not foresee
        kind = type(answer).__name__
        return False, f"an answer of type {kind} could not be graded ({type(error).__name__}: {error})."
    return True, inspect.getdoc(grader).splitlines()[0]


def find_grader(exercise: str) -> Callable[[Any], None]:
    """The function that grades an exercise; the longest chapter name that begins the label wins."""
    words = exercise.split("-")
    for cut in range(len(words) - 1, 0, -1):
        chapter, name = "_".join(words[:cut]), "_".join(words[cut:])
        if not chapter.isidentifier() or find_spec(f"{GRADERS}.{chapter}") is None:
            continue
        module = importlib.import_module(f"{GRADERS}.{chapter}")
        known = graders_of(module)
        if name not in known:
            names = ", ".join(sorted(known)).replace("_", "-")
            raise ValueError(f"no exercise {exercise!r}; the chapter {chapter!r} has: {names}")
        return known[name]
    raise ValueError(f"no chapter has an exercise {exercise!r}; expected '<chapter>-<exercise>'")


def graders_of(module: Any) -> dict[str, FunctionType]:
    """The graders of a chapter: the public functions that its module defines."""
    return {
        name: function
        for name, function in vars(module).items()
        if inspect.isfunction(function) and function.__module__ == module.__name__ and name[0] != "_"
    }


def is_unanswered(answer: Any) -> bool:
    """Whether dots are left: `...` itself, inside a tuple, list or dict, or as the body of a function."""
    if isinstance(answer, dict):
        answer = list(answer.values())
    if isinstance(answer, (tuple, list)):
        return any(is_unanswered(part) for part in answer)
    if isinstance(answer, FunctionType):
        steps = {step.opname for step in dis.get_instructions(answer)}
        return steps <= IDLE and answer.__code__.co_argcount > 0 and _returned(answer) in (None, ...)
    return answer is ...


def _returned(function: FunctionType) -> Any:
    """The constant that a function without any work in it returns."""
    loads = [step for step in dis.get_instructions(function) if step.opname in ("LOAD_CONST", "RETURN_CONST")]
    return loads[-1].argval
