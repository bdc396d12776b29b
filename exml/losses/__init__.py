"""Losses: what the student minimizes (Eqs. 9 and 10).

It imports only rooms below: :mod:`exml.core` and :mod:`exml.protocols`.
"""

from exml.losses.composite import Distillation, Sum, Weighted
from exml.losses.terms import CrossEntropy, KLDivergence, MeanSquaredError

__all__ = ["CrossEntropy", "Distillation", "KLDivergence", "MeanSquaredError", "Sum", "Weighted"]
