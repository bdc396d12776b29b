"""Losses made of losses; each is itself a loss."""

from __future__ import annotations

from typing import Literal

import attrs

from exml.core.registry import component
from exml.core.shapes import Labels, Logits, Scalar
from exml.core.targets import Target
from exml.core.validators import in_range, one_of
from exml.losses.terms import CrossEntropy, MeanSquaredError
from exml.protocols import Loss


@component
@attrs.frozen
class Distillation:
    """``L_MSE + λ · L_CE`` (Eq. 10).

    Args:
        cross_entropy: λ >= 0; 1 in the paper.
        classes: as in :class:`MeanSquaredError` and :class:`CrossEntropy`.
        reduction: as in :class:`MeanSquaredError`.
        labels: as in :class:`CrossEntropy`.

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


@component(kind="sum-of-losses")
@attrs.frozen
class Sum:
    """The sum of losses; an empty sum is 0.

    Args:
        losses: the terms; :class:`Weighted` gives one a weight.

    >>> import torch
    >>> everything = torch.ones(1, 2, dtype=torch.bool)
    >>> target = Target(torch.tensor([[1.0, 1.0]]), everything, everything)
    >>> Sum((MeanSquaredError(), CrossEntropy()))(torch.zeros(1, 2), target, torch.tensor([0]))
    tensor(2.6931)
    """

    losses: tuple[Loss, ...] = attrs.field(converter=tuple)

    def __call__(self, logits: Logits, target: Target, labels: Labels, /) -> Scalar:
        """The sum of their values."""
        return sum((loss(logits, target, labels) for loss in self.losses), start=logits.new_zeros(()))


@component(kind="weighted-loss")
@attrs.frozen
class Weighted:
    """A loss times a weight.

    Args:
        loss: the loss to scale.
        weight: >= 0.

    >>> import torch
    >>> everything = torch.ones(1, 2, dtype=torch.bool)
    >>> target = Target(torch.tensor([[1.0, 1.0]]), everything, everything)
    >>> Weighted(MeanSquaredError(), 0.25)(torch.zeros(1, 2), target, torch.tensor([0]))
    tensor(0.5000)
    """

    loss: Loss
    weight: float = attrs.field(validator=in_range(0))

    def __call__(self, logits: Logits, target: Target, labels: Labels, /) -> Scalar:
        """The weighted value."""
        return self.weight * self.loss(logits, target, labels)
