"""No normalisation."""

from __future__ import annotations

import attrs

from exml._registry import component
from exml._types import ClassMask, Logits


@component
@attrs.frozen
class RawLogits:
    """Leave the logits as they are: right for teachers with the same training, and for heads kept apart by tasks.

    >>> import torch
    >>> RawLogits()(torch.tensor([[1.0, 3.0]]), torch.tensor([True, True]))
    tensor([[1., 3.]])
    """

    def __call__(self, logits: Logits, known: ClassMask, /) -> Logits:
        """``logits`` themselves."""
        return logits
