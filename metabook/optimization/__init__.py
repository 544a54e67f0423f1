"""Optimisation-based methods: what is learned is how to take gradient steps."""

from metabook.optimization.maml import MAML

__all__ = ["MAML"]
