"""Results of full-scale runs: files that are read as they were written, and the command that writes them."""

import dataclasses
import importlib.util
import re
import sys

import pytest
import torch
from setup_cell import ROOT

from metabook.full_scale import Run, Test, load_runs, paired, published
from metabook.full_scale.runs import FOLDER


def example(**changes) -> Run:
    tests = [
        Test(5, 1, 4, "batch", "five ways", [4, 3, 0]),
        Test(5, 1, 4, "fixed", "five ways", [4, 4, 1]),
        Test(20, 1, 8, "none", "twenty ways", [8, 2, 6]),
    ]
    run = Run("Nearest mean", "lake", 1, {"steps": 3}, 0, 1.5, {"device": "CPU"}, "python x.py", tests, ["10", "11"])
    return dataclasses.replace(run, **changes)


def test_a_file_is_read_as_it_was_written(tmp_path):
    example().write(tmp_path / "omniglot-a.json")
    assert Run.read(tmp_path / "omniglot-a.json") == example()
    assert '"right": [4, 3, 0]' in (tmp_path / "omniglot-a.json").read_text()
    assert load_runs(tmp_path) == [example()]


def test_a_test_is_found_by_its_ways_shots_and_statistics():
    run = example()
    assert run.test(5).per_task.tolist() == [1, 1, 0.25]
    assert run.test(5, statistics="batch").per_task.tolist() == [1, 0.75, 0]
    assert run.test(20).per_task.tolist() == [1, 0.25, 0.75]
    with pytest.raises(ValueError, match="no 5-way 5-shot test with fixed statistics, but 5-way 1-shot batch"):
        run.test(5, shots=5)


def test_official_runs_are_scored_run_by_run():
    assert example().one_shot_runs.per_task.tolist() == [0.5, 1]
    with pytest.raises(ValueError, match="not tested on the official runs"):
        _ = example(official=[]).one_shot_runs


def test_only_scores_on_the_same_episodes_are_paired():
    run = example()
    difference = paired(run.test(5), run.test(5, statistics="batch"))
    assert difference.per_task.tolist() == [0, 0.25, 0.25]
    with pytest.raises(ValueError, match="same episodes"):
        paired(run.test(5), run.test(20))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"tests": [{"ways": 5}]}', '{"tests": [], "method": "x"}'])
def test_a_file_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match="not the result of a run"):
        Run.read(tmp_path / "x.json")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("omniglot-*.json")), ids=lambda path: path.stem)
def test_the_runs_of_the_library_say_what_they_are(path):
    run = Run.read(path)
    form = r"omniglot-(vinyals|lake)-[a-z0-9]+(-\d+way)?-(\d+)shot-seed(\d+)(?:-(tf32|bfloat16))?"
    name = re.fullmatch(form, path.stem)
    assert run.machine.get("precision", "float32") == (name[5] or "float32")
    assert (run.split, run.shots, run.seed) == (name[1], int(name[3]), int(name[4]))
    assert run.training["steps"] > 100 and run.seconds > 60
    assert run.command.startswith("python experiments/omniglot.py ") and "/" not in run.command.split(" ", 2)[2]
    assert run.machine.keys() >= {"device", "torch", "metabook", "python"}
    assert run.tests
    for test in run.tests:
        assert len(test.right) == 1000 and 0 <= min(test.right) and max(test.right) <= test.queries
        assert f"{test.ways}-way {test.shots}-shot" in test.tasks and "1000 tasks" in test.tasks
    for answers in run.official:
        assert re.fullmatch("[01]{20}", answers)
    assert len(run.official) in (0, 20) and not (run.official and run.split == "vinyals")


def test_published_results_name_a_reference_of_the_book():
    bibliography = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    rows = published()
    assert len({(row.method, row.ways, row.shots, row.transductive) for row in rows}) == len(rows) > 20
    for row in rows:
        assert f"{{{row.source}," in bibliography
        assert 50 < row.accuracy < 100 and row.ways in (5, 20) and row.shots in (1, 5)


@pytest.fixture
def command(monkeypatch):
    spec = importlib.util.spec_from_file_location("omniglot_experiment", ROOT / "experiments" / "omniglot.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("method", ["prototypical", "reptile", "siamese", "simpleshot", "baseline"])
def test_the_command_trains_tests_and_goes_on(omniglot, command, method, tmp_path, monkeypatch):
    small = {"queries": 2, "meta_batch": 1} | ({} if method == "reptile" else {"ways": 5})
    monkeypatch.setitem(command.METHODS, method, dataclasses.replace(command.METHODS[method], **small))
    few = command.load_omniglot(split="background").select(["Greek", "Korean"])
    monkeypatch.setattr(command, "training_characters", lambda options: few)
    folders = ["--out", str(tmp_path), "--parts", str(tmp_path / "parts")]
    arguments = [method, "--split", "lake", "--ways", "5", "--steps", "4", "--tasks", "3", *folders]
    assert command.main(arguments) == 0
    [path] = tmp_path.glob("*.json")
    first = Run.read(path)
    trained = method != "reptile"  # for any number of ways, and with an encoder to fix
    kinds = [(5, "batch"), (20, "batch")] if method in ("prototypical", "siamese") else []
    kinds += [(5, "fixed"), (20, "fixed")] if trained else [(5, "batch")]
    assert [(test.ways, test.statistics) for test in first.tests] == kinds
    assert [len(run) for run in first.official] == ([20] * 20 if trained else [])
    path.unlink()
    assert command.main(arguments) == 0  # all steps are done: from the checkpoint, at once
    again = Run.read(path)
    assert again.tests == first.tests and again.official == first.official and again.seconds == first.seconds


def test_minibatches_name_each_character_and_its_turn(omniglot, command):
    characters = command.load_omniglot(split="background").select(["Greek", "Korean"])
    tasks = command.Minibatches(characters, 40, "cpu")
    episode = tasks.sample(2, tasks.generator(0))
    x, y = (torch.cat(parts, dim=1).flatten(0, 1) for parts in zip(*episode, strict=True))
    assert episode.support.y.shape == episode.query.y.shape == (2, 20)
    assert y.min() >= 0 and y.max() < 4 * characters.classes and len(y.unique()) > 50
    for image, label in zip(x, y.tolist(), strict=True):
        drawings = characters.images[characters.labels == label // 4].rot90(label % 4, (-2, -1)).float() / 255
        assert (drawings == image).all((1, 2, 3)).any()


def test_a_head_of_cosines_is_ten_times_the_cosine(command):
    head, x = command.CosineHead(3, 4, bias=False), torch.randn(5, 3)
    expected = 10 * torch.nn.functional.cosine_similarity(x[:, None], head.weight[None], dim=-1)
    torch.testing.assert_close(head(x), expected)


def test_fixed_statistics_are_not_those_of_the_test(omniglot, command):
    """Whatever the test images are, the encoder normalises by the training characters."""
    torch.manual_seed(0)
    learner = command.METHODS["prototypical"].learner(5)
    command.fix(learner, command.argparse.Namespace(split="lake", device="cpu"))
    assert not learner.transductive
    x = torch.rand(3, 1, 28, 28)
    torch.testing.assert_close(learner.encoder(x)[:1], learner.encoder(x[:1]), rtol=1e-4, atol=1e-5)
