"""Logits without their mean."""

from __future__ import annotations

import attrs

from exml._registry import component
from exml._types import ClassMask, Logits
from exml.losses._known import mean_over


@component
@attrs.frozen
class CenterLogits:
    """``z - mean(z)``, the mean of each row over the known classes: *normalize* of Eqs. 6 and 7 in the paper's code.

    It takes away what the softmax does not see, a constant added to all logits of an image. The scale stays.

    >>> import torch
    >>> CenterLogits()(torch.tensor([[1.0, 3.0, 7.0]]), torch.tensor([True, True, False]))
    tensor([[-1.,  1.,  5.]])
    """

    def __call__(self, logits: Logits, known: ClassMask, /) -> Logits:
        """Centre each row; without a known class it stays as it is."""
        return logits - mean_over(logits, known)
