"""When two printed texts agree: text and integers exactly, other numbers nearly."""

import importlib.util

import pytest
from setup_cell import ROOT

SPEC = importlib.util.spec_from_file_location("book_conftest", ROOT / "book" / "conftest.py")
tolerant = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tolerant)


def agree(test, reference, rtol=1e-3):
    return tolerant.settle(test, reference, rtol) == reference


AGREE = [
    ("loss 0.50001", "loss 0.5000049"),
    ("loss 123.46", "loss 123.45"),
    ("loss 123.5", "loss 123.4"),  # one unit of the last digit
    ("mse 0.012 ± 0.003", "mse 0.013 ± 0.002"),
    ("1e-05", "2e-05"),
    ("1.2345e-08", "1.2346e-08"),
    ("-0.5001", "-0.5000"),
    ("tensor([ 0.1000, -0.2000])", "tensor([ 0.1001, -0.1999])"),
    ("tensor([0.0001])", "tensor([-0.0000])"),
    ("a   9.999  b", "a  10.000  b"),
    ("[0.5, 1000.4, 3]", "[0.5, 1000.9, 3]"),
    ("M10.501,3.2L4.1 5.25Z", "M10.502,3.2L4.1 5.24Z"),
    ("accuracy 97.31 %", "accuracy 97.32 %"),
    (".5001", ".5000"),
    ("−0.5001", "−0.5002"),
    ("6.02e+23", "6.03e+23"),
    ("3 tasks, 0.1 s\n2 tasks, 0.3 s", "3 tasks, 0.1 s\n2 tasks, 0.2 s"),
    ("", ""),
]
DIFFER = [
    ("loss 0.5100", "loss 0.5000"),
    ("loss 123.48", "loss 122.45"),
    ("loss 0.6", "loss 0.4"),
    ("5 tasks", "6 tasks"),
    ("10000", "10001"),
    ("tensor([1., 0.])", "tensor([1., 1.])"),
    ("5", "5.0"),
    ("1", "0.9999"),
    ("0.5000", "-0.5000"),
    ("loss 0.5", "Loss 0.5"),
    ("0.5 0.5", "0.5"),
    ("a\n0.5", "a 0.5"),
    ("a 5", "a  5"),
    ("0.5 a b", "0.5 a  b"),
    ("1e-05", "9e-05"),
    ("1e-05", "1e-04"),
    ("0.5", "0.4512"),  # all digits are printed, so the unit is that of the longer one
    ("2.13.0", "2.13.1"),
    ("v2.13.0", "v2.4.0"),
    ("nan", "0.5"),
    ("inf", "nan"),
    ("[True, 0.5]", "[False, 0.5]"),
    ("5-way", "5-ways"),
]


@pytest.mark.parametrize("test, reference", AGREE)
def test_near_texts_agree(test, reference):
    assert agree(test, reference)


@pytest.mark.parametrize("test, reference", DIFFER)
def test_other_texts_differ(test, reference):
    assert not agree(test, reference)


def test_what_is_near_is_settled_and_what_is_not_stays_to_be_seen():
    assert tolerant.settle("a 0.5001 b 7 c 2.5", "a 0.5000 b 8 c 2.9", 1e-3) == "a 0.5000 b 7 c 2.5"


@pytest.mark.parametrize("rtol, near", [(1e-3, False), (1e-2, True)])
def test_the_tolerance_is_relative(rtol, near):
    assert agree("1234.5", "1240.0", rtol) is near
    assert agree("0.0012345", "0.0012400", rtol) is near


@pytest.mark.parametrize(
    "tags, variable, rtol",
    [
        ([], None, 1e-3),
        (["hide-input"], None, 1e-3),
        (["nbval-rtol-1e-2"], None, 1e-2),
        (["nbval-rtol-0.2"], None, 0.2),
        (["nbval-rtol-1e-6"], None, 1e-6),
        (["nbval-exact"], None, 0.0),
        ([], "0.05", 0.05),
        (["nbval-rtol-1e-2"], "0.05", 0.05),
        (["nbval-rtol-0.2"], "0.05", 0.2),
        (["nbval-exact"], "0.05", 0.0),
    ],
)
def test_tags_and_the_variable_set_it(tags, variable, rtol, monkeypatch):
    monkeypatch.delenv("NBVAL_RTOL", raising=False)
    if variable is not None:
        monkeypatch.setenv("NBVAL_RTOL", variable)
    assert tolerant.tolerance(tags) == rtol


def test_a_tag_without_a_number_is_an_error():
    with pytest.raises(ValueError):
        tolerant.tolerance(["nbval-rtol-small"])


def test_pictures_and_objects_are_left_alone_and_the_rest_is_settled():
    test = {"data": {"image/png": "0.51", "image/svg+xml": "0.5001", "text/html": "0.5001", "a/json": {"x": 0.5}}}
    reference = {"data": {"image/png": "0.50", "image/svg+xml": "0.5", "text/html": "0.5000", "a/json": {"x": 1}}}
    tolerant.settle_output(test, reference, 1e-3)
    assert test["data"]["image/png"] == "0.51"
    assert test["data"]["text/html"] == "0.5000"
    assert test["data"]["a/json"] == {"x": 0.5}
