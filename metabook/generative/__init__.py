"""Generative methods: what is learned is a distribution, over functions or over data sets."""

from metabook.generative.neural_processes import ConditionalNeuralProcess

__all__ = ["ConditionalNeuralProcess"]
