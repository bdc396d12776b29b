"""Losses: what the student minimizes (Eqs. 9 and 10). Imports only the core and the protocols."""

from exml.losses.losses import CrossEntropy, Distillation, KLDivergence, MeanSquaredError, Sum, Weighted

__all__ = ["CrossEntropy", "Distillation", "KLDivergence", "MeanSquaredError", "Sum", "Weighted"]
