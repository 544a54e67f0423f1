"""Train one method on Omniglot at full length and test it: `python experiments/omniglot.py prototypical --shots 1`.

One run for each published setting: a method, 1 or 5 shots and, where the network's size depends on it, 5 or 20 ways.
Methods that take any number of ways are trained once and tested with 5 and with 20.  Two never see an episode: their
encoder learns to tell all training characters apart.

`--split vinyals`, the default, is the protocol of most published results: the split of Vinyals et al., every character
turned by quarters counting as four classes, in training and in the test.  `--split lake` tests on the 20 alphabets
that Lake's split holds out, as the chapters do, and on the official 20 one-shot runs; training uses turned characters.

A run that was stopped goes on where it was when the same command is given again.  The result is a JSON file with the
protocol, the seed, the device, the time, the versions and the right answers in every test task.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

import metabook
from metabook import MAML, Episode, FineTuning, Learner, PrototypicalNetwork, Reptile, Set, evaluate, meta_train
from metabook.data import Dataset, load_omniglot, omniglot_oneshot_runs, store
from metabook.full_scale import Run, Test
from metabook.full_scale.machine import describe_machine
from metabook.full_scale.runs import FOLDER
from metabook.metric import R2D2, Baseline, MatchingNetwork, MetaOptNetSVM, RelationNetwork, SimpleShot
from metabook.metric.matching_networks import SiameseNetwork, Verification, cosines
from metabook.metric.relation_networks import RelationModule, relation_encoder
from metabook.metric.strong_baselines import mean_feature
from metabook.networks import conv4, fix_statistics
from metabook.tasks import FewShot, TaskDistribution

FEATURES = 64  # of an image of 28 by 28 pixels
TEST_WAYS = (5, 20)
TEST_QUERIES = 15  # of each class
TEST_SEED = 1  # the chapters' test episodes have it too


@dataclass(frozen=True)
class Method:
    """How a method is trained here.

    learner: makes it for a number of ways.
    ways: of a training episode; None for those of the test.
    queries: of each class in training.
    head: for a method that never sees an episode, makes the last layer of the classifier that it is trained as, for a
        number of classes; the minibatch is then as large as an episode.
    """

    name: str
    learner: Callable[[int], Learner]
    ways: int | None
    queries: int
    meta_batch: int
    steps: int
    lr: float
    head: Callable[[int], nn.Module] | None = None


class CosineHead(nn.Linear):
    """Ten times the cosine of feature and class weight, as in Baseline++."""

    def forward(self, x: Tensor) -> Tensor:
        """`(n, features)` -> logits `(n, classes)`."""
        return 10.0 * cosines(x, self.weight)


class Minibatches(TaskDistribution):
    """One task only: which of all the characters is it?  Turned by quarters, each counts as four, as in `FewShot`.

    A sample is a minibatch of `size` images, half of it called support and half query.
    """

    def __init__(self, characters: Dataset, size: int, device: str) -> None:
        self.characters, self.size, self.device = characters.to(device), size, torch.device(device)

    def sample(self, n: int, generator: torch.Generator) -> Episode:
        """`n` minibatches; images and labels do not depend on which half they are in."""
        self._check(n, generator)
        place = {"generator": generator, "device": self.device}
        rows = torch.randint(len(self.characters), (n, self.size), **place)
        turns = torch.randint(4, (n, self.size), **place)
        images = self.characters.images[rows].float() / 255  # (n, size, 1, 28, 28)
        for turn in (1, 2, 3):
            chosen = turns == turn
            images[chosen] = images[chosen].rot90(turn, (-2, -1))
        labels = 4 * self.characters.labels[rows] + turns
        return Episode(*(Set(x, y) for x, y in zip(images.chunk(2, 1), labels.chunk(2, 1), strict=True)))


def _encoder() -> nn.Module:
    return conv4(outputs=None)


def _simple_shot(ways: int) -> Learner:
    return SimpleShot(_encoder(), ways, mean=torch.zeros(FEATURES))  # the mean is set after training


def _baseline(ways: int) -> Learner:
    return Baseline(_encoder(), ways, FEATURES, cosine=True, lr=0.3)


def _siamese(ways: int) -> Learner:
    return SiameseNetwork(_encoder(), ways, Verification(FEATURES))


def _relation(ways: int) -> Learner:
    return RelationNetwork(relation_encoder(norm="group"), RelationModule(norm="group"), ways)


METHODS = {  # 360 images in a step of the metric-based methods, whatever the ways
    "simpleshot": Method("SimpleShot", _simple_shot, 60, 5, 1, 4000, 1e-2, lambda n: nn.Linear(FEATURES, n)),
    "baseline": Method("Baseline++", _baseline, 60, 5, 1, 4000, 1e-2, lambda n: CosineHead(FEATURES, n, bias=False)),
    "siamese": Method("Siamese network", _siamese, 20, 5, 3, 4000, 2e-3),
    "matching": Method(
        "Matching network", lambda n: MatchingNetwork(_encoder(), n, scale=10.0, learn_scale=True), 20, 5, 3, 4000, 2e-3
    ),
    "prototypical": Method("Prototypical network", lambda n: PrototypicalNetwork(_encoder(), n), 60, 5, 1, 4000, 2e-3),
    "relation": Method("Relation network", _relation, 5, 5, 12, 4000, 1e-3),
    "r2d2": Method("R2-D2", lambda n: R2D2(_encoder(), n, scale=10.0), 20, 5, 3, 4000, 2e-3),
    "svm": Method("MetaOptNet-SVM", lambda n: MetaOptNetSVM(_encoder(), n, scale=10.0), 5, 5, 12, 4000, 2e-3),
    "maml": Method("MAML", lambda n: MAML(conv4(outputs=n), inner_lr=0.4, inner_steps=1), None, 15, 8, 8000, 1e-3),
    "reptile": Method("Reptile", lambda n: Reptile(conv4(outputs=n), inner_lr=0.1), None, 5, 5, 20000, 1e-3),
}


def training_characters(options: argparse.Namespace) -> Dataset:
    """The characters of the split that may be learned from."""
    return load_omniglot(split="vinyals background" if options.split == "vinyals" else "background")


def train(method: Method, options: argparse.Namespace, checkpoint: Path) -> tuple[Learner, float, dict]:
    """Train a learner, going on from its checkpoint: it, the seconds of its steps, and what was done in numbers."""
    torch.manual_seed(options.seed)
    ways, steps = method.ways or options.ways, options.steps or method.steps
    learner = method.learner(max(ways, *TEST_WAYS) if method.ways else ways).to(options.device)
    characters = training_characters(options)
    counts = {"ways": ways, "shots": options.shots, "queries": method.queries}
    if method.head:
        counts = {"images": ways * (options.shots + method.queries)}
        tasks = Minibatches(characters, counts["images"], options.device)
        head = method.head(4 * characters.classes).to(options.device)
        trained = FineTuning(nn.Sequential(learner.encoder, head))  # its training loss is that of a plain classifier
    else:
        tasks = FewShot(characters, **counts, rotations=True, device=options.device)
        trained = learner
    optimizer = torch.optim.Adam(trained.parameters(), method.lr)
    history = meta_train(
        trained, tasks, steps=steps, optimizer=optimizer, meta_batch=method.meta_batch, seed=options.seed,
        scheduler=OneCycleLR(optimizer, method.lr, total_steps=steps), mode=options.mode,
        precision=options.precision, checkpoint=checkpoint, checkpoint_every=200,
    )  # fmt: skip
    seconds = sum(method.meta_batch / speed for speed in history.tasks_per_second)
    done = {
        **counts, "meta_batch": method.meta_batch, "steps": steps, "lr": method.lr, "schedule": "OneCycle",
        "rotations": True, "parameters": sum(p.numel() for p in learner.parameters()),
    }  # fmt: skip
    return learner, seconds, done


def test(learner: Learner, method: Method, options: argparse.Namespace, statistics: str) -> list[Test]:
    """Test a learner on the split's unseen characters."""
    characters = load_omniglot(split="vinyals test" if options.split == "vinyals" else "evaluation")
    done = []
    for ways in TEST_WAYS if method.ways else [options.ways]:
        tasks = FewShot(
            characters, ways=ways, shots=options.shots, queries=TEST_QUERIES,
            rotations=options.split == "vinyals", device=options.device,
        )  # fmt: skip
        scores = evaluate(learner, tasks, n=options.tasks, seed=TEST_SEED)
        queries = ways * TEST_QUERIES
        right = (scores.per_task * queries).round().int().tolist()
        words = f"{tasks!r}; {options.tasks} tasks, seed {TEST_SEED}"
        done.append(Test(ways, options.shots, queries, statistics, words, right))
        print(f"{method.name}: {scores}, {scores.protocol}", file=sys.stderr, flush=True)
    return done


@torch.no_grad()
def fix(learner: Learner, options: argparse.Namespace) -> None:
    """Give the encoder's batch normalisation the statistics of the training characters, SimpleShot also their mean."""
    characters = training_characters(options)
    order = torch.randperm(len(characters), generator=torch.Generator().manual_seed(0))[:2000]
    with fix_statistics(learner.encoder):
        for rows in order.split(500):
            learner.encoder(characters.images[rows].to(options.device).float() / 255)
    if isinstance(learner, SimpleShot):
        learner.mean = mean_feature(learner.encoder, characters)


def official(learner: Learner, device: str) -> list[str]:
    """Answers to the official one-shot runs, right or wrong."""
    episode = omniglot_oneshot_runs().to(device)
    with torch.no_grad():
        right = learner.eval()(episode).argmax(-1) == episode.query.y
    return ["".join("01"[answer] for answer in run) for run in right.int().tolist()]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("--shots", type=int, default=1)
    parser.add_argument("--ways", type=int, default=5, help="for methods that are trained for one number of ways")
    parser.add_argument("--split", choices=["vinyals", "lake"], default="vinyals")
    parser.add_argument("--steps", type=int, help="meta-steps; by default those of the method")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tasks", type=int, default=1000, help="test tasks")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--mode", default="eager", help="as in meta_train")
    parser.add_argument("--precision", default="float32", help="as in meta_train")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the result")
    parser.add_argument("--parts", type=Path, help="folder of the checkpoints; in the cache by default")
    options = parser.parse_args(arguments)
    metabook.reuse_memory()
    method = METHODS[options.method]
    ways = "" if method.ways else f"-{options.ways}way"
    name = f"omniglot-{options.split}-{options.method}{ways}-{options.shots}shot-seed{options.seed}"
    if options.precision != "float32":
        name += f"-{options.precision}"
    parts = options.parts or store.cache_folder() / "experiments" / "omniglot"
    learner, seconds, done = train(method, options, parts / f"{name}.pt")
    tests = []
    if not method.head:  # features that were made without episodes are used without the statistics of an episode
        tests += test(learner, method, options, "batch" if learner.transductive else "none")
    if learner.transductive and method.ways:  # a network that is adapted keeps the statistics of its batch
        fix(learner, options)
        tests += test(learner, method, options, "fixed")
    answers = []
    if options.split == "lake" and options.shots == 1 and (method.ways or options.ways == 20):
        answers = official(learner, options.device)
    command = shlex.join(["python", "experiments/omniglot.py", *(sys.argv[1:] if arguments is None else arguments)])
    run = Run(
        method.name, options.split, options.shots, done, options.seed, round(seconds, 1),
        describe_machine(options.device, options.mode, options.precision), command, tests, answers,
    )  # fmt: skip
    run.write(options.out / f"{name}.json")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
