"""Deep learning and meta-learning in PyTorch: the library behind the book *Everything Is a Map*.

The path of data, in one line: `tasks.sample(n) -> Episode -> learner.adapt(support) -> state ->
learner.predict(state, x) -> loss -> backward -> step -> evaluate`.
"""

from metabook.baselines import FineTuning, NearestNeighbour, pretrain_classifier
from metabook.episode import Episode, Set
from metabook.evaluation import Comparison, Scores, compare, evaluate
from metabook.learner import Learner, task_loss
from metabook.metric import PrototypicalNetwork
from metabook.optimization import MAML
from metabook.training import History, meta_train

__version__ = "0.1.0"

__all__ = [
    "MAML",
    "Comparison",
    "Episode",
    "FineTuning",
    "History",
    "Learner",
    "NearestNeighbour",
    "PrototypicalNetwork",
    "Scores",
    "Set",
    "compare",
    "evaluate",
    "meta_train",
    "pretrain_classifier",
    "task_loss",
]
