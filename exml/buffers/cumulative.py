"""The buffer of Algorithm 1: a fixed size, an equal share for each experience."""

from __future__ import annotations

import attrs
import torch

from exml._registry import component
from exml._validators import positive_int
from exml.buffers._draw import share_of, subset
from exml.samples import Samples


@component
@attrs.frozen
class Cumulative:
    r"""Keep N samples: ⌊N/i⌋ new ones and a uniform subsample of the earlier ones (Sec. 3, "Buffer Update").

    .. math:: \mathcal{M}_i = subsample(\mathcal{M}_{i-1}) \cup \mathcal{D}_i, \quad
        |\mathcal{D}_i| = N / i, \quad |subsample(\mathcal{M}_{i-1})| = N - N / i

    Args:
        size: N, at least the number of experiences.

    >>> policy = Cumulative(5_000)
    >>> [policy.share(experience) for experience in (1, 2, 3)]
    [5000, 2500, 1666]
    """

    size: int = attrs.field(validator=positive_int())

    def share(self, experience: int, /) -> int:
        """⌊N/i⌋ (Eq. 5); raises :class:`exml.errors.BufferSizeError` when that is nothing."""
        return share_of(self.size, experience)

    def __call__(self, memory: Samples | None, new: Samples, generator: torch.Generator, /) -> Samples:
        """M_i from M_{i-1} and D_i; earlier samples keep their order."""
        if memory is None:
            return new
        kept = subset(len(memory), self.size - len(new), generator)
        return Samples.concat([memory[kept], new])
