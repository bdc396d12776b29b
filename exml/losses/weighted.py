"""A loss by a factor."""

from __future__ import annotations

import attrs

from exml.core.registry import component
from exml.core.shapes import Labels, Logits, Scalar
from exml.core.targets import Target
from exml.core.validators import in_range
from exml.protocols import Loss


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
