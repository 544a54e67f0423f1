"""Generative and model-based methods: a distribution is learned, over functions, data sets or answers."""

from metabook.generative.amortized_inference import BayesianMAML, VersaClassifier, VersaRegression
from metabook.generative.feature_hallucination import DeltaVAE, FeatureGAN, Imagined, LinearDiscriminant
from metabook.generative.in_context_learning import ContentMemory, InContextRegressor, LinearAttention
from metabook.generative.neural_processes import ConditionalNeuralProcess, ConvCNP, NeuralProcess
from metabook.generative.neural_statistician import NeuralStatistician

__all__ = [
    "BayesianMAML",
    "ConditionalNeuralProcess",
    "ContentMemory",
    "ConvCNP",
    "DeltaVAE",
    "FeatureGAN",
    "Imagined",
    "InContextRegressor",
    "LinearAttention",
    "LinearDiscriminant",
    "NeuralProcess",
    "NeuralStatistician",
    "VersaClassifier",
    "VersaRegression",
]
