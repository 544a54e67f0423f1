"""`check`: which grader is asked, what it prints, and what counts as not answered."""

import sys

import pytest
import torch

from metabook.checking import check, graders
from metabook.checking.exercises import find_grader, grade, is_unanswered

SAMPLE = '''
from metabook.checking.compare import Hint, same_value


def _helper(answer):
    raise Hint("never asked")


def mean(answer):
    """the mean of the sample.

    More that is not printed.
    """
    same_value(answer, 2.0, wrong=[(6.0, "divide by the count.")])


def first_moment(answer):
    """another name for it."""
    answer.no_such_attribute
'''


@pytest.fixture(autouse=True)
def sample_chapters(tmp_path, monkeypatch):
    """Two chapters whose names begin alike, `sample` and `sample_means`, beside the real graders."""
    (tmp_path / "sample.py").write_text(SAMPLE)
    (tmp_path / "sample_means.py").write_text(SAMPLE)
    monkeypatch.setattr(graders, "__path__", [*graders.__path__, str(tmp_path)])
    yield
    for name in [name for name in sys.modules if name.startswith(f"{graders.__name__}.sample")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    "exercise, answer, line",
    [
        ("sample-mean", 2, "✓ sample-mean: the mean of the sample."),
        ("sample-means-mean", torch.tensor(2.0), "✓ sample-means-mean: the mean of the sample."),
        ("sample-mean", 6, "✗ sample-mean: divide by the count."),
        ("sample-mean", ..., "… sample-mean: not answered yet. Replace the dots, then run the cell again."),
        (
            "sample-first-moment",
            3,
            "✗ sample-first-moment: an answer of type int could not be graded "
            "(AttributeError: 'int' object has no attribute 'no_such_attribute').",
        ),
    ],
)
def test_check_prints_one_line_and_never_raises(exercise, answer, line, capsys):
    assert check(exercise, answer) is None
    assert capsys.readouterr().out == line + "\n"


def test_the_longest_name_of_a_chapter_wins():
    assert find_grader("sample-means-mean").__module__.endswith(".sample_means")
    assert find_grader("sample-mean").__module__.endswith(".sample")


@pytest.mark.parametrize(
    "exercise, words",
    [
        ("sample-median", "'sample' has: first-moment, mean"),
        ("sample-helper", "no exercise"),
        ("sample--helper", "no exercise"),
        ("no-chapter-here", "no chapter has an exercise 'no-chapter-here'"),
        ("sample", "expected '<chapter>-<exercise>'"),
        ("", "expected '<chapter>-<exercise>'"),
    ],
)
def test_an_unknown_exercise_is_a_value_error(exercise, words):
    with pytest.raises(ValueError, match=words):
        check(exercise, 1)


def only_dots(x): ...


def dots_below_a_docstring(x):
    """What to do."""
    ...


def returns_dots(x, y=1):
    return ...


def passes(x):
    pass


def identity(x):
    return x


def constant(x):
    return 2.0


def counts(x):
    return x.shape


STUBS = [..., (1, ...), [...], {"a": ..., "b": 1}, (1, (2, ...))]
STUBS += [only_dots, dots_below_a_docstring, returns_dots, passes, (1, only_dots)]


@pytest.mark.parametrize("answer", STUBS)
def test_dots_are_no_answer(answer):
    assert is_unanswered(answer)
    assert grade("sample-mean", answer)[0] is None


@pytest.mark.parametrize(
    "answer", [0, None, "", (), {}, torch.zeros(2), identity, constant, counts, len, torch.nn.ReLU()]
)
def test_anything_else_is_an_answer(answer):
    assert not is_unanswered(answer)
    assert grade("sample-mean", answer)[0] is False
