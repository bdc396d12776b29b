"""Several losses are one."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from exml.core.registry import component
from exml.core.shapes import Labels, Logits, Scalar
from exml.core.targets import Target
from exml.protocols import Loss


def _tuple(losses: Iterable[Loss]) -> tuple[Loss, ...]:
    return tuple(losses)


@component(kind="sum-of-losses")
@attrs.frozen
class Sum:
    """The sum of losses, itself a loss; of no losses it is 0.

    Args:
        losses: the terms; :class:`Weighted` gives one a weight.

    >>> import torch
    >>> from exml.losses import CrossEntropy, MeanSquaredError
    >>> everything = torch.ones(1, 2, dtype=torch.bool)
    >>> target = Target(torch.tensor([[1.0, 1.0]]), everything, everything)
    >>> Sum((MeanSquaredError(), CrossEntropy()))(torch.zeros(1, 2), target, torch.tensor([0]))
    tensor(2.6931)
    """

    losses: tuple[Loss, ...] = attrs.field(converter=_tuple)

    def __call__(self, logits: Logits, target: Target, labels: Labels, /) -> Scalar:
        """The sum of their values."""
        return sum((loss(logits, target, labels) for loss in self.losses), start=logits.new_zeros(()))
