"""Logits of length 1."""

from __future__ import annotations

import attrs
import torch

from exml._registry import component
from exml._types import ClassMask, Logits
from exml._validators import in_range


@component
@attrs.frozen
class L2NormalizeLogits:
    """``z / ‖z‖``, the L² norm of each row over the known classes (Eqs. 6 and 7).

    Args:
        eps: a row whose norm is not above it stays as it is; >= 0.

    >>> import torch
    >>> L2NormalizeLogits()(torch.tensor([[3.0, 4.0, 10.0]]), torch.tensor([True, True, False]))
    tensor([[0.6000, 0.8000, 2.0000]])
    """

    eps: float = attrs.field(default=1e-5, validator=in_range(0))

    def __call__(self, logits: Logits, known: ClassMask, /) -> Logits:
        """Divide each row by its norm; without a known class it stays as it is."""
        norm = torch.linalg.vector_norm(torch.where(known, logits, 0), dim=1, keepdim=True)
        return logits / torch.where(norm > self.eps, norm, 1)
