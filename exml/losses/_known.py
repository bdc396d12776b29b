"""Statistics over the classes that a teacher knows, without reading anything back from the device."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from exml._types import ClassMask, Logits


def mean_over(values: Logits, known: ClassMask) -> Float[Tensor, "batch 1"]:
    """The mean of each row over the known columns; 0 where there is none."""
    return torch.where(known, values, 0).sum(1, keepdim=True) / known.sum().clamp_min(1)
