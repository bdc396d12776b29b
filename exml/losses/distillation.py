"""Eq. 10: the loss of Ex-Model Distillation."""

from __future__ import annotations

from typing import Literal

import attrs

from exml.core.registry import component
from exml.core.shapes import Labels, Logits, Scalar
from exml.core.targets import Target
from exml.core.validators import in_range, one_of
from exml.losses.cross_entropy import CrossEntropy
from exml.losses.mean_squared_error import MeanSquaredError


@component
@attrs.frozen
class Distillation:
    """``L_MSE + λ · L_CE`` (Eq. 10): the teachers' logits within an experience, the labels between experiences.

    Args:
        cross_entropy: λ >= 0; 1 in the paper.
        classes: ``"seen"`` or ``"all"``, as in :class:`MeanSquaredError` and :class:`CrossEntropy`.
        reduction: ``"sum"`` or ``"mean"``, as in :class:`MeanSquaredError`.
        labels: ``"given"`` or of the ``"target"``, as in :class:`CrossEntropy`.

    >>> import torch
    >>> everything = torch.ones(1, 2, dtype=torch.bool)
    >>> target = Target(torch.tensor([[1.0, 1.0]]), everything, everything)
    >>> Distillation()(torch.zeros(1, 2), target, torch.tensor([0]))
    tensor(2.6931)
    """

    cross_entropy: float = attrs.field(default=1.0, validator=in_range(0))
    classes: Literal["seen", "all"] = attrs.field(default="seen", validator=one_of("seen", "all"))
    reduction: Literal["sum", "mean"] = attrs.field(default="sum", validator=one_of("sum", "mean"))
    labels: Literal["given", "target"] = attrs.field(default="given", validator=one_of("given", "target"))

    def __call__(self, logits: Logits, target: Target, labels: Labels, /) -> Scalar:
        """The loss of a batch."""
        matching = MeanSquaredError(self.classes, self.reduction)(logits, target, labels)
        return matching + self.cross_entropy * CrossEntropy(self.classes, self.labels)(logits, target, labels)
