"""A stream of unknown length: experts from an iterable."""

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

    While one expert is in use, another thread takes the next one from the iterable. Prefer paths of cards: the files
    are then read in the background, and the module is built in its turn. An iterable that makes experts itself must not
    draw from torch's global generator (constructing a module does), because all threads share it, and the same seed
    would no longer give the same student. If it draws, set ``read_ahead=False``.

    For a length, slices and indices, use :class:`ExpertStream`.

    Args:
        experts: experts, or paths of their cards.
        read_ahead: whether another thread takes the next expert while one is in use.

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
        """Skip a number of experts, whose files are not read.

        Raises:
            StreamError: when the stream is shorter.
        """
        items = iter(self.experts)
        skipped = sum(1 for _ in islice(items, experiences))
        if skipped < experiences:
            raise StreamError(
                expected=f"a stream of at least {experiences} expert(s)",
                got=str(skipped),
                remedy="give the whole stream, including the experts that were learned before",
            )
        reads = map(_read, items)
        # An iterable may wait forever, for a network for example. The program must be able to end meanwhile.
        return ahead(reads, daemon=True) if self.read_ahead else map(operator.call, reads)


def _read(item: Expert | Path | str) -> Callable[[], Expert]:
    if isinstance(item, Expert):
        return lambda: item
    return read_expert(item).expert
