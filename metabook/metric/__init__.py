"""Metric-based methods: what is learned is a space in which classes are easy to tell apart."""

from metabook.metric.prototypical_networks import PrototypicalNetwork

__all__ = ["PrototypicalNetwork"]
