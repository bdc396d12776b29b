"""A fixed size, exactly an equal share for each experience."""

from __future__ import annotations

import attrs
import torch

from exml._registry import component
from exml._validators import positive_int
from exml.buffers._draw import share_of, subset
from exml.samples import Samples


@component
@attrs.frozen
class EqualParts:
    """Keep ⌊N/i⌋ samples of every experience, drawn from what there was of each.

    This is what the paper's code does for the subsample of :class:`Cumulative`, which draws N - N/i of all earlier
    samples and leaves to chance how many are of which experience. M_i has up to i - 1 samples less than N.

    Args:
        size: N, at least the number of experiences.

    >>> new = Samples.of(torch.zeros(4, 1, 2, 2), torch.tensor([0, 1, 2, 3]), experience=2)
    >>> old = Samples.of(torch.ones(9, 1, 2, 2), torch.arange(9), experience=1)
    >>> EqualParts(9)(old, new, torch.Generator().manual_seed(0)).experiences.tolist()
    [1, 1, 1, 1, 2, 2, 2, 2]
    """

    size: int = attrs.field(validator=positive_int())

    def share(self, experience: int, /) -> int:
        """⌊N/i⌋ (Eq. 5); raises :class:`exml.errors.BufferSizeError` when that is nothing."""
        return share_of(self.size, experience)

    def __call__(self, memory: Samples | None, new: Samples, generator: torch.Generator, /) -> Samples:
        """M_i from M_{i-1} and D_i; experiences stay in their order."""
        if memory is None:
            return new
        parts = [(memory.experiences == past).nonzero().squeeze(1) for past in memory.experiences.unique()]
        kept = torch.cat([part[subset(len(part), len(new), generator)] for part in parts])
        return Samples.concat([memory[kept], new])
