"""Deep learning and meta-learning in PyTorch: the library behind the book *Everything Is a Map*.

The path of data, in one line: `tasks.sample(n) -> Episode -> learner.adapt(support) -> state ->
learner.predict(state, x) -> loss -> backward -> step -> evaluate`.
"""

from metabook.baselines import FineTuning, NearestNeighbour, pretrain_classifier
from metabook.checkpoint import restore
from metabook.episode import Episode, Set
from metabook.evaluation import Comparison, Scores, compare, evaluate
from metabook.generative import ConditionalNeuralProcess
from metabook.history import History
from metabook.interrupts import Interrupted
from metabook.learner import Learner, task_loss
from metabook.memory import reuse_memory
from metabook.metric import PrototypicalNetwork
from metabook.optimization import ANIL, MAML, Reptile
from metabook.training import meta_train

__version__ = "0.6.0"

__all__ = [
    "ANIL",
    "MAML",
    "Comparison",
    "ConditionalNeuralProcess",
    "Episode",
    "FineTuning",
    "History",
    "Interrupted",
    "Learner",
    "NearestNeighbour",
    "PrototypicalNetwork",
    "Reptile",
    "Scores",
    "Set",
    "compare",
    "evaluate",
    "meta_train",
    "pretrain_classifier",
    "restore",
    "reuse_memory",
    "task_loss",
]
