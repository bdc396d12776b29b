"""Buffer policies: which samples of earlier experiences M_i keeps (Sec. 3, "Buffer Update")."""

from __future__ import annotations

import attrs
import torch

from exml.core.errors import BufferSizeError
from exml.core.registry import component
from exml.core.samples import Samples
from exml.core.shapes import Labels
from exml.core.validators import positive_int


def _subset(length: int, size: int, generator: torch.Generator) -> Labels:
    """Distinct indices below ``length``, at most ``size``, in ascending order; every set is equally probable."""
    return torch.randperm(length, generator=generator, device=generator.device)[:size].sort().values


def _share(policy: ClassBalanced | Cumulative | EqualParts, experience: int, /) -> int:
    """⌊N/i⌋ (Eq. 5); raises :class:`exml.core.errors.BufferSizeError` if that is 0."""
    if policy.size < experience:
        raise BufferSizeError(
            expected=f"a buffer of at least {experience} samples for experience {experience}",
            got=str(policy.size),
            remedy="increase the size of the buffer, or use exml.buffers.Unbounded",
        )
    return policy.size // experience


@component
@attrs.frozen
class ClassBalanced:
    """Keep N = ``size`` samples, balanced over the classes as far as the rarer classes allow.

    >>> import exml, torch
    >>> from exml.buffers import ClassBalanced
    >>> new = exml.Samples.of(torch.zeros(6, 1, 2, 2), torch.tensor([0, 0, 0, 0, 1, 2]))
    >>> ClassBalanced(4)(None, new, torch.Generator().manual_seed(0)).labels.tolist()
    [0, 0, 1, 2]
    """

    size: int = attrs.field(validator=positive_int(2**21))
    share = _share

    def __call__(self, memory: Samples | None, new: Samples, generator: torch.Generator, /) -> Samples:
        """M_i from M_{i-1} and D_i; samples keep their order."""
        union = new if memory is None else Samples.concat([memory, new])
        classes, counts = union.labels.unique(return_counts=True)
        kept, room = list[torch.Tensor](), self.size
        for rank, position in enumerate(counts.argsort(stable=True).tolist()):
            members = (union.labels == classes[position]).nonzero().squeeze(1)
            chosen = _subset(len(members), room // (len(classes) - rank), generator)
            kept.append(members[chosen])
            room -= len(chosen)
        return union[torch.cat(kept).sort().values]


@component
@attrs.frozen
class Cumulative:
    r"""Keep N = ``size`` samples: ⌊N/i⌋ new ones and a uniform subsample of the earlier ones (Sec. 3, "Buffer Update").

    .. math::

        \begin{aligned}
        \mathcal{M}_i &= \mathrm{subsample}(\mathcal{M}_{i-1}) \cup \mathcal{D}_i \\
        |\mathcal{D}_i| &= N / i \\
        |\mathrm{subsample}(\mathcal{M}_{i-1})| &= N - N / i
        \end{aligned}

    >>> from exml.buffers import Cumulative
    >>> policy = Cumulative(5_000)
    >>> [policy.share(experience) for experience in (1, 2, 3)]
    [5000, 2500, 1666]
    """

    size: int = attrs.field(validator=positive_int(2**21))
    share = _share

    def __call__(self, memory: Samples | None, new: Samples, generator: torch.Generator, /) -> Samples:
        """M_i from M_{i-1} and D_i; earlier samples keep their order."""
        if memory is None:
            return new
        kept = _subset(len(memory), self.size - len(new), generator)
        return Samples.concat([memory[kept], new])


@component
@attrs.frozen
class EqualParts:
    """Keep ⌊N/i⌋ samples of every experience, as in the paper's code; up to i - 1 of N = ``size`` places stay empty.

    >>> import exml, torch
    >>> from exml.buffers import EqualParts
    >>> new = exml.Samples.of(torch.zeros(4, 1, 2, 2), torch.tensor([0, 1, 2, 3]), experience=2)
    >>> old = exml.Samples.of(torch.ones(9, 1, 2, 2), torch.arange(9), experience=1)
    >>> EqualParts(9)(old, new, torch.Generator().manual_seed(0)).experiences.tolist()
    [1, 1, 1, 1, 2, 2, 2, 2]
    """

    size: int = attrs.field(validator=positive_int(2**21))
    share = _share

    def __call__(self, memory: Samples | None, new: Samples, generator: torch.Generator, /) -> Samples:
        """M_i from M_{i-1} and D_i; experiences stay in their order."""
        if memory is None:
            return new
        parts = [(memory.experiences == past).nonzero().squeeze(1) for past in memory.experiences.unique()]
        kept = torch.cat([part[_subset(len(part), len(new), generator)] for part in parts])
        return Samples.concat([memory[kept], new])


@component
@attrs.frozen
class Latest:
    """Keep only the ``size`` samples of this experience, M_i = D_i, as in the paper's code for auxiliary data.

    >>> import exml, torch
    >>> from exml.buffers import Latest
    >>> new = exml.Samples.of(torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 2]), experience=2)
    >>> old = exml.Samples.of(torch.ones(3, 1, 2, 2), torch.tensor([0, 1, 2]), experience=1)
    >>> Latest(3)(old, new, torch.Generator()).experiences.tolist()
    [2, 2, 2]
    """

    size: int = attrs.field(validator=positive_int(2**21))

    def share(self, experience: int, /) -> int:
        """``size`` in every experience."""
        return self.size

    def __call__(self, memory: Samples | None, new: Samples, generator: torch.Generator, /) -> Samples:
        """M_i is D_i."""
        return new


@component
@attrs.frozen
class Reservoir:
    """Keep N samples, each sample made so far with the same probability (Vitter's Algorithm R, 1985).

    Args:
        size: N.
        per_experience: the number of new samples.

    >>> import exml, torch
    >>> from exml.buffers import Reservoir
    >>> policy = Reservoir(2, per_experience=4)
    >>> new = exml.Samples.of(torch.zeros(4, 1, 2, 2), torch.tensor([0, 1, 2, 3]), experience=1)
    >>> len(policy(None, new, torch.Generator().manual_seed(0)))
    2
    """

    size: int = attrs.field(validator=positive_int(2**21))
    per_experience: int = attrs.field(validator=positive_int(2**21))

    def share(self, experience: int, /) -> int:
        """``per_experience`` in every experience."""
        return self.per_experience

    def __call__(self, memory: Samples | None, new: Samples, generator: torch.Generator, /) -> Samples:
        """M_i from M_{i-1} and D_i, after (i - 1) * ``per_experience`` earlier samples."""
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


@component
@attrs.frozen
class Unbounded:
    """Keep all samples; the buffer grows by ``per_experience`` samples in every experience.

    >>> from exml.buffers import Unbounded
    >>> Unbounded(100).share(7)
    100
    """

    per_experience: int = attrs.field(validator=positive_int(2**21))

    def share(self, experience: int, /) -> int:
        """``per_experience`` in every experience."""
        return self.per_experience

    def __call__(self, memory: Samples | None, new: Samples, generator: torch.Generator, /) -> Samples:
        """The union of M_{i-1} and D_i, in order."""
        return new if memory is None else Samples.concat([memory, new])
