"""A fixed size, an equal chance for every sample ever made."""

from __future__ import annotations

import attrs
import torch

from exml._registry import component
from exml._validators import positive_int
from exml.samples import Samples


@component
@attrs.frozen
class Reservoir:
    """Keep N samples, each sample made so far with the same probability (Vitter's Algorithm R, 1985).

    Every experience makes the same number of samples, so the cost of an experience does not fall along the stream as
    it does with :class:`Cumulative`, and the stream may be of any length.

    Args:
        size: N.
        per_experience: how many samples every experience makes.

    >>> policy = Reservoir(2, per_experience=4)
    >>> new = Samples.of(torch.zeros(4, 1, 2, 2), torch.tensor([0, 1, 2, 3]), experience=1)
    >>> len(policy(None, new, torch.Generator().manual_seed(0)))
    2
    """

    size: int = attrs.field(validator=positive_int())
    per_experience: int = attrs.field(validator=positive_int())

    def share(self, experience: int, /) -> int:
        """``per_experience``, whatever the experience."""
        return self.per_experience

    def __call__(self, memory: Samples | None, new: Samples, generator: torch.Generator, /) -> Samples:
        """M_i from M_{i-1} and D_i; how many samples came before is (i - 1) * ``per_experience``."""
        held = 0 if memory is None else len(memory)
        before = 0 if memory is None else (int(new.experiences[0]) - 1) * self.per_experience
        union = new if memory is None else Samples.concat([memory, new])
        slots = list(range(held))
        draws = torch.rand(len(new), generator=generator, device=generator.device, dtype=torch.float64).tolist()
        for position, draw in enumerate(draws):
            if len(slots) < self.size:
                slots.append(held + position)
                continue
            slot = int(draw * (before + position + 1))
            if slot < self.size:
                slots[slot] = held + position
        return union[torch.tensor(slots, device=union.labels.device)]
