"""Losses: what the student minimizes (Eqs. 9 and 10).

It imports only rooms below: :mod:`exml.core` and :mod:`exml.protocols`.
"""

from exml.losses.losses import CrossEntropy, Distillation, KLDivergence, MeanSquaredError, Sum, Weighted

__all__ = ["CrossEntropy", "Distillation", "KLDivergence", "MeanSquaredError", "Sum", "Weighted"]
