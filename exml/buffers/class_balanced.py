"""A fixed size, an equal share for each class."""

from __future__ import annotations

import attrs
import torch

from exml._registry import component
from exml._validators import positive_int
from exml.buffers._draw import share_of, subset
from exml.samples import Samples


@component
@attrs.frozen
class ClassBalanced:
    """Keep N samples, as many of each class as the rarer classes allow.

    Unlike :class:`Cumulative`, experiences with many classes get more room than those with few. A class with fewer
    samples than its share keeps them all, and what it leaves is shared among the others.

    Args:
        size: N, at least the number of experiences.

    >>> new = Samples.of(torch.zeros(6, 1, 2, 2), torch.tensor([0, 0, 0, 0, 1, 2]))
    >>> ClassBalanced(4)(None, new, torch.Generator().manual_seed(0)).labels.tolist()
    [0, 0, 1, 2]
    """

    size: int = attrs.field(validator=positive_int())

    def share(self, experience: int, /) -> int:
        """⌊N/i⌋ (Eq. 5); raises :class:`exml.errors.BufferSizeError` when that is nothing."""
        return share_of(self.size, experience)

    def __call__(self, memory: Samples | None, new: Samples, generator: torch.Generator, /) -> Samples:
        """M_i from M_{i-1} and D_i; samples keep their order."""
        union = new if memory is None else Samples.concat([memory, new])
        classes, counts = union.labels.unique(return_counts=True)
        kept: list[torch.Tensor] = []
        room = self.size
        for rank, position in enumerate(counts.argsort(stable=True).tolist()):
            members = (union.labels == classes[position]).nonzero().squeeze(1)
            chosen = subset(len(members), room // (len(classes) - rank), generator)
            kept.append(members[chosen])
            room -= len(chosen)
        return union[torch.cat(kept).sort().values]
