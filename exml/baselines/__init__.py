"""Baselines (Sec. 5): ways to use the experts without learning."""

from exml.baselines.ensemble_average import EnsembleAverage
from exml.baselines.min_entropy import MinEntropy
from exml.baselines.oracle import Oracle
from exml.baselines.parameter_average import ParameterAverage

__all__ = ["EnsembleAverage", "MinEntropy", "Oracle", "ParameterAverage"]
