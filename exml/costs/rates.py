"""How fast a device is at the parts of a strategy: what the model of its cost is given."""

from __future__ import annotations

import math

import attrs

from exml.core.validators import in_range

_AT_LEAST_0 = in_range(0)


def _speed(instance: object, attribute: attrs.Attribute[float], value: float) -> None:
    if not math.isinf(value):
        in_range(0, open_low=True)(instance, attribute, value)


@attrs.frozen
class Line:
    """What n things take: ``fixed + each · n``, in seconds or bytes.

    Args:
        fixed: however many there are.
        each: more for every one.

    >>> Line(0.5, 0.25)(4)
    1.5
    """

    fixed: float = attrs.field(default=0.0, validator=_AT_LEAST_0)
    each: float = attrs.field(default=0.0, validator=_AT_LEAST_0)

    def __call__(self, n: float, /) -> float:
        """For n things."""
        return self.fixed + self.each * n

    @classmethod
    def through(cls, few: int, at_few: float, many: int, at_many: float) -> Line:
        """The line through two measurements; noise that would make a part negative makes it 0.

        >>> Line.through(2, 5.0, 4, 9.0)
        Line(fixed=1.0, each=2.0)
        >>> Line.through(2, 1.0, 4, 3.0)
        Line(fixed=0.0, each=0.75)
        """
        each = (at_many - at_few) / (many - few)
        if each <= 0:
            return cls(max(at_many, 0.0), 0.0)
        fixed = at_many - each * many
        return cls(fixed, each) if fixed > 0 else cls(0.0, at_many / many)


_NOTHING = Line()


@attrs.frozen
class GenerationRates:
    """One generator.

    Args:
        call: seconds of a call for n images, beside its iterations: noise to start from, labels, making the network
            ready.
        step: seconds of one iteration over a mini-batch of n images; 0 for a generator that does not iterate.
    """

    call: Line = _NOTHING
    step: Line = _NOTHING


@attrs.frozen
class DistillationRates:
    """One experience's distillation.

    Args:
        setup: seconds before the first step: making the teachers ready.
        view: seconds to augment one image and to ask the teachers about it, for a bank of views.
        step: seconds of one step over a mini-batch of n samples.
    """

    setup: float = attrs.field(default=0.0, validator=_AT_LEAST_0)
    view: float = attrs.field(default=0.0, validator=_AT_LEAST_0)
    step: Line = _NOTHING


@attrs.frozen
class Link:
    r"""What connects the ranks. A collective of b bytes over R ranks takes

    .. math:: \alpha \lceil \log_2 R \rceil + \frac{w (R - 1)}{R} \frac{b}{\beta}

    with w = 2 where all ranks add up what they have (all-reduce, a ring in two rounds), w = R where each gets what all
    others have (all-gather of b bytes each), and w = R/(R - 1) where one tells the others (broadcast).

    Args:
        latency: α, seconds of the smallest collective between two ranks.
        bytes_per_second: β.

    >>> link = Link(latency=1e-4, bytes_per_second=1e9)
    >>> link.add(10**6, ranks=2), link.gather(10**6, ranks=2), link.add(10**6, ranks=1)
    (0.0011, 0.0011, 0.0)
    """

    latency: float = attrs.field(default=0.0, validator=_AT_LEAST_0)
    bytes_per_second: float = attrs.field(default=math.inf, validator=_speed)

    def add(self, count: float, /, ranks: int) -> float:
        """Seconds of an all-reduce of ``count`` bytes."""
        return self._seconds(2 * (ranks - 1) / ranks * count, ranks)

    def gather(self, count: float, /, ranks: int) -> float:
        """Seconds of an all-gather of ``count`` bytes from each rank."""
        return self._seconds((ranks - 1) * count, ranks)

    def share(self, count: float, /, ranks: int, tensors: int = 1) -> float:
        """Seconds of broadcasts of ``count`` bytes in so many tensors."""
        return (tensors - 1) * self._seconds(0.0, ranks) + self._seconds(count * (ranks > 1), ranks)

    def _seconds(self, sent: float, ranks: int) -> float:
        return self.latency * math.ceil(math.log2(ranks)) + sent / self.bytes_per_second


_NO_DISTANCE = Link()


@attrs.frozen
class Rates:
    """How fast a device is at every part of a strategy; :func:`measure` finds them out.

    Args:
        generation: one for each of the :func:`leaves` of the strategy's generator.
        first: distillation in the first experience, with one teacher.
        later: in the others, with two.
        experience: seconds of an experience beside all else: checks, copies of the student.
        update: seconds for each image that the buffer policy goes through, those it has and the new ones.
        link: what connects the ranks.
    """

    generation: tuple[GenerationRates, ...] = attrs.field(converter=tuple)
    first: DistillationRates
    later: DistillationRates
    experience: float = attrs.field(default=0.0, validator=_AT_LEAST_0)
    update: float = attrs.field(default=0.0, validator=_AT_LEAST_0)
    link: Link = _NO_DISTANCE
