"""Baselines (Sec. 5): predictors made of the experts, without learning. Imports the engine and the rooms below it."""

from exml.baselines.predictors import EnsembleAverage, MinEntropy, Oracle, ParameterAverage

__all__ = ["EnsembleAverage", "MinEntropy", "Oracle", "ParameterAverage"]
