"""Optimisation-based methods: what is learned is how to take gradient steps."""

from metabook.optimization.feature_reuse import ANIL, BOIL
from metabook.optimization.implicit_gradients import ImplicitMAML
from metabook.optimization.learned_initializations import ConditionedMAML
from metabook.optimization.learned_learning_rates import MAMLPlusPlus, MetaSGD, ScheduledMAML
from metabook.optimization.learned_optimizers import LearnedOptimizer
from metabook.optimization.maml import MAML
from metabook.optimization.reptile import Reptile

__all__ = [
    "ANIL",
    "BOIL",
    "MAML",
    "ConditionedMAML",
    "ImplicitMAML",
    "LearnedOptimizer",
    "MAMLPlusPlus",
    "MetaSGD",
    "Reptile",
    "ScheduledMAML",
]
