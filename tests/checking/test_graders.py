"""Every grader and every exercise of the book: solutions pass, stubs do not, wrong answers get their hints."""

import importlib
import pkgutil
import re

import chapters
import pytest

from metabook.checking import graders
from metabook.checking.exercises import grade, graders_of

MODULES = [importlib.import_module(f"{graders.__name__}.{m.name}") for m in pkgutil.iter_modules(graders.__path__)]
CALL = re.compile(r"""\bcheck\(\s*["']([\w-]+)["']""")


def label(module, name):
    return f"{module.__name__.split('.')[-1]}-{name}".replace("_", "-")


GRADERS = {label(module, name): (module, name) for module in MODULES for name in graders_of(module)}
WRONG = [
    pytest.param(exercise, answer, hint, id=f"{exercise}-{number}")
    for exercise, (module, name) in GRADERS.items()
    for number, (answer, hint) in enumerate(getattr(module, "WRONG", {}).get(name, []))
]


def exercises_of_the_book():
    for path in chapters.find_chapters():
        notebook = chapters.read(path)
        for exercise in chapters.exercises(notebook):
            yield pytest.param(path, notebook, exercise, id=exercise.label)


EXERCISES = list(exercises_of_the_book())


def graded_in(notebook, positions):
    return [found for position in positions for found in CALL.findall(notebook.cells[position].source)]


def printed(notebook, positions):
    return "".join(out.get("text", "") for position in positions for out in notebook.cells[position].outputs)


@pytest.mark.parametrize("exercise, answer, hint", WRONG)
def test_a_known_wrong_answer_gets_its_hint(exercise, answer, hint):
    passed, message = grade(exercise, answer)
    assert passed is False
    assert hint in message


@pytest.mark.parametrize("exercise", GRADERS)
def test_a_grader_knows_wrong_answers_and_says_what_a_right_one_shows(exercise):
    module, name = GRADERS[exercise]
    assert getattr(module, "WRONG", {}).get(name), f"{module.__name__}.WRONG[{name!r}] lists no wrong answer"
    assert graders_of(module)[name].__doc__, "the docstring is what a right answer is told"
    assert set(module.WRONG) <= set(graders_of(module)), "WRONG names something that is no grader"


@pytest.mark.parametrize("exercise", GRADERS)
def test_a_grader_is_asked_by_an_exercise_of_its_chapter(exercise):
    module, _ = GRADERS[exercise]
    labels = {param.values[2].label: param.values[0] for param in EXERCISES}
    assert exercise in labels, "no chapter has this exercise"
    assert labels[exercise].stem == module.__name__.split(".")[-1]


@pytest.mark.parametrize("path, notebook, exercise", EXERCISES)
def test_an_exercise_is_solved_and_graded_by_its_own_name(path, notebook, exercise):
    assert exercise.solved, "the exercise has no solution"
    assert exercise.label.startswith(path.stem.replace("_", "-") + "-"), "a label begins with the chapter's name"
    asked = set(graded_in(notebook, exercise.cells))
    assert asked <= {exercise.label}
    if asked:
        assert graded_in(notebook, exercise.solution) == [exercise.label], "the solution is not graded"
    elif exercise.label in GRADERS:
        pytest.fail("there is a grader, and the exercise does not ask it")


@pytest.mark.parametrize("path, notebook, exercise", EXERCISES)
def test_the_stub_fails_and_the_solution_passes(path, notebook, exercise):
    """The stored outputs say so, and nbval compares them with a new run."""
    if not graded_in(notebook, exercise.cells):
        assert exercise.label not in GRADERS
        return
    assert f"✓ {exercise.label}:" not in printed(notebook, exercise.cells)
    assert f"{exercise.label}:" in printed(notebook, exercise.cells)
    assert f"✓ {exercise.label}: " in printed(notebook, exercise.solution)


CHAPTERS = [path for path in chapters.find_chapters() if path.parent.name != "book"]  # the intro asks nothing


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_has_three_to_five_exercises_and_grades_one(path):
    notebook = chapters.read(path)
    found = chapters.exercises(notebook)
    assert 3 <= len(found) <= 5
    assert any(graded_in(notebook, exercise.cells) for exercise in found)
