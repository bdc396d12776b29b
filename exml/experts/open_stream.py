"""A stream whose length nobody knows: experts as they come out of an iterable."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import attrs

from exml.core.errors import StreamError
from exml.core.expert import Expert
from exml.experts.loading import read_expert
from exml.experts.prefetch import ahead


@attrs.frozen(eq=False)
class OpenStream:
    """Experts from an iterable, such as a generator: a stream of unknown length.

    While one expert is in use, the next is taken from the iterable in the background. Give paths of cards where you
    can: the files are then read in the background, and the module is built when its turn comes. An iterable that makes
    experts itself must draw nothing from torch's global generator meanwhile (making a module does), for all threads
    share it, and the same seed would no longer give the same student; if it does draw, set ``read_ahead=False``.

    It has no length, no slices and no indices: those are :class:`ExpertStream`'s.

    Args:
        experts: experts, or paths of their cards.
        read_ahead: take the next one while one is in use, in another thread.

    >>> import torch
    >>> head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> stream = OpenStream(Expert(head, (i, i + 1), (1, 2, 2), name=f"e{i}") for i in range(3))
    >>> [expert.name for expert in stream]
    ['e0', 'e1', 'e2']
    """

    experts: Iterable[Expert | Path | str]
    read_ahead: bool = True

    def __iter__(self) -> Iterator[Expert]:
        return self.after(0)

    def after(self, experiences: int, /) -> Iterator[Expert]:
        """The experts that come after the first so many, of which no file is read.

        Raises:
            StreamError: there are not so many.
        """
        items = iter(self.experts)
        skipped = sum(1 for _ in islice(items, experiences))
        if skipped < experiences:
            raise StreamError(
                expected=f"a stream of at least {experiences} expert(s)",
                got=str(skipped),
                remedy="give the whole stream, also the experts that were learned before",
            )
        reads = map(_read, items)
        # An iterable may wait for ever (for a network, say), and the end of the program shall not wait with it.
        return ahead(reads, daemon=True) if self.read_ahead else map(operator.call, reads)


def _read(item: Expert | Path | str) -> Callable[[], Expert]:
    if isinstance(item, Expert):
        return lambda: item
    return read_expert(item).expert
