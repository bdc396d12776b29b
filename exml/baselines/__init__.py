"""Baselines (Sec. 5): predictors made of the experts, without learning. Imports the engine and the rooms below it."""

from exml.baselines.ensembles import EnsembleAverage, MinEntropy, Oracle
from exml.baselines.parameter_average import ParameterAverage

__all__ = ["EnsembleAverage", "MinEntropy", "Oracle", "ParameterAverage"]
