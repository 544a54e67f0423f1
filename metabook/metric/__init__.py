"""Metric-based methods: what is learned is a space in which classes are easy to tell apart."""

from metabook.metric.closed_form_heads import R2D2, MetaOptNetSVM
from metabook.metric.matching_networks import MatchingNetwork, SiameseNetwork
from metabook.metric.prototypical_networks import PrototypicalNetwork
from metabook.metric.relation_networks import RelationNetwork
from metabook.metric.strong_baselines import Baseline, ModifiedHausdorff, SimpleShot

__all__ = [
    "Baseline",
    "MatchingNetwork",
    "MetaOptNetSVM",
    "ModifiedHausdorff",
    "PrototypicalNetwork",
    "R2D2",
    "RelationNetwork",
    "SiameseNetwork",
    "SimpleShot",
]
