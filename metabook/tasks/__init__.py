"""Distributions over tasks: where episodes come from."""

from metabook.tasks.distribution import TaskDistribution
from metabook.tasks.few_shot import FewShot
from metabook.tasks.gaussian_process import GaussianProcess
from metabook.tasks.image_completion import ImageCompletion
from metabook.tasks.linear_gaussian import LinearGaussian
from metabook.tasks.mixture import Mixture
from metabook.tasks.quadratics import Quadratics
from metabook.tasks.sinusoids import Sinusoids

__all__ = [
    "FewShot",
    "GaussianProcess",
    "ImageCompletion",
    "LinearGaussian",
    "Mixture",
    "Quadratics",
    "Sinusoids",
    "TaskDistribution",
]
