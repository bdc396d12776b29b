"""Everything that was ever made."""

from __future__ import annotations

import attrs
import torch

from exml._registry import component
from exml._validators import positive_int
from exml.samples import Samples


@component
@attrs.frozen
class Unbounded:
    """Keep all samples. Memory grows with the stream: an upper bound to compare with, not a policy for long streams.

    Args:
        per_experience: how many samples every experience makes.

    >>> Unbounded(100).share(7)
    100
    """

    per_experience: int = attrs.field(validator=positive_int())

    def share(self, experience: int, /) -> int:
        """``per_experience``, whatever the experience."""
        return self.per_experience

    def __call__(self, memory: Samples | None, new: Samples, generator: torch.Generator, /) -> Samples:
        """The union of M_{i-1} and D_i, in order."""
        return new if memory is None else Samples.concat([memory, new])
