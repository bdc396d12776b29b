"""A loss by a factor."""

from __future__ import annotations

import attrs

from exml._registry import component
from exml._types import Labels, Logits, Loss, Scalar
from exml._validators import in_range
from exml.targets import Target


@component(kind="weighted-loss")
@attrs.frozen
class Weighted:
    """A loss times a weight, itself a loss.

    Args:
        loss: multiplied.
        weight: >= 0.

    >>> import torch
    >>> from exml.losses import MeanSquaredError
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
