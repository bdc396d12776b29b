"""Logits with mean 0 and standard deviation 1."""

from __future__ import annotations

import attrs
import torch

from exml._registry import component
from exml._types import ClassMask, Logits
from exml._validators import in_range
from exml.losses._known import mean_over


@component
@attrs.frozen
class StandardizeLogits:
    """``(z - mean(z)) / std(z)``, both of each row over the known classes (Eqs. 6 and 7).

    It takes scale away too, and with it how sure a teacher is. With two known classes only the sign is left.

    Args:
        eps: a row whose (biased) standard deviation is not above it is centred only, as one with a single known class;
            >= 0.

    >>> import torch
    >>> StandardizeLogits()(torch.tensor([[1.0, 3.0, 7.0]]), torch.tensor([True, True, False]))
    tensor([[-1.,  1.,  5.]])
    >>> StandardizeLogits()(torch.tensor([[2.0, 2.0, 7.0]]), torch.tensor([True, True, False]))
    tensor([[0., 0., 5.]])
    """

    eps: float = attrs.field(default=1e-5, validator=in_range(0))

    def __call__(self, logits: Logits, known: ClassMask, /) -> Logits:
        """Standardise each row; without a known class it stays as it is."""
        centered = logits - mean_over(logits, known)
        norm = torch.linalg.vector_norm(torch.where(known, centered, 0), dim=1, keepdim=True)
        std = norm / known.sum().clamp_min(1).to(norm.dtype).sqrt()
        return centered / torch.where(std > self.eps, std, 1)
