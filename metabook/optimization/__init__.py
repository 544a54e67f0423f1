"""Optimisation-based methods: what is learned is how to take gradient steps."""

from metabook.optimization.feature_reuse import ANIL
from metabook.optimization.maml import MAML
from metabook.optimization.reptile import Reptile

__all__ = ["ANIL", "MAML", "Reptile"]
