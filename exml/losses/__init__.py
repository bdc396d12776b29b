"""Losses: what the student minimizes (Eqs. 9 and 10)."""

from exml.losses.cross_entropy import CrossEntropy
from exml.losses.distillation import Distillation
from exml.losses.kl_divergence import KLDivergence
from exml.losses.mean_squared_error import MeanSquaredError
from exml.losses.sum import Sum
from exml.losses.weighted import Weighted

__all__ = ["CrossEntropy", "Distillation", "KLDivergence", "MeanSquaredError", "Sum", "Weighted"]
