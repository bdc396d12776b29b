"""Streams of experts (Sec. 2): one expert in use, and at most one more being read."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import overload

import attrs

from exml.core.errors import StreamError
from exml.core.expert import Expert
from exml.experts.entries import Entry, entries
from exml.experts.loading import read_cards, read_expert
from exml.experts.prefetch import ahead


@attrs.frozen(eq=False)
class ExpertStream:
    """A sequence of experts, each loaded in its turn and released in the next one's.

    While one expert is in use, a thread reads the files of the next if it is a path, so at most two are in memory.
    Modules are built, and errors raised, in turn. A stream can be iterated over several times, and a slice is a stream
    that loads nothing else. For an unknown length, use :class:`OpenStream`.

    Args:
        experts: experts, paths of their files, or functions that each make one.

    >>> from exml.experts import Expert, ExpertStream
    >>> import torch
    >>> head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> stream = ExpertStream.from_experts([Expert(head, (i, i + 1), (1, 2, 2), name=f"e{i}") for i in range(3)])
    >>> len(stream), [expert.name for expert in stream[1:]], stream[0].classes
    (3, ['e1', 'e2'], (0, 1))
    """

    experts: tuple[Expert | Entry | Path | str | Callable[[], Expert], ...] = attrs.field(converter=tuple)

    @classmethod
    def from_experts(cls, experts: Iterable[Expert], /) -> ExpertStream:
        """A stream of experts in memory."""
        return cls(experts)

    @classmethod
    def from_folder(cls, folder: Path | str, /) -> ExpertStream:
        """All experts of a folder, in the order of :func:`read_cards`, which documents the errors.

        The cards are checked at once, the weights when they are loaded.
        """
        names, found = read_cards(folder), entries(folder)
        return cls([found[name] for name in names])

    def __len__(self) -> int:
        return len(self.experts)

    def __iter__(self) -> Iterator[Expert]:
        if any(isinstance(item, Entry | Path | str) for item in self.experts):
            return ahead(map(_read, self.experts))
        return (_read(item)() for item in self.experts)

    @overload
    def __getitem__(self, index: int, /) -> Expert: ...
    @overload
    def __getitem__(self, index: slice, /) -> ExpertStream: ...
    def __getitem__(self, index: int | slice, /) -> Expert | ExpertStream:
        """Load the expert at an index, or make a stream of a slice."""
        return ExpertStream(self.experts[index]) if isinstance(index, slice) else _read(self.experts[index])()

    def __repr__(self) -> str:
        return f"ExpertStream({len(self)} experts)"


@attrs.frozen(eq=False)
class OpenStream:
    """Experts from an iterable, such as a generator: a stream of unknown length.

    While one expert is in use, another thread takes the next one from the iterable. Prefer paths: the module
    is then built in its turn. If the iterable draws from torch's global generator (constructing a module does), set
    ``read_ahead=False``: all threads share the generator, and the same seed would no longer give the same student.

    Args:
        experts: experts, or paths of their files.
        read_ahead: whether another thread takes the next expert while one is in use.

    >>> from exml.experts import Expert, OpenStream
    >>> import torch
    >>> head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> stream = OpenStream(Expert(head, (i, i + 1), (1, 2, 2), name=f"e{i}") for i in range(3))
    >>> [expert.name for expert in stream]
    ['e0', 'e1', 'e2']
    """

    experts: Iterable[Expert | Entry | Path | str]
    read_ahead: bool = True

    def __iter__(self) -> Iterator[Expert]:
        return self.after(0)

    def after(self, experiences: int, /) -> Iterator[Expert]:
        """Skip a number of experts, whose files are not read; raises StreamError when the stream is shorter."""
        items = iter(self.experts)
        skipped = sum(1 for _ in islice(items, experiences))
        if skipped < experiences:
            remedy = "give the whole stream, including the experts that were learned before"
            raise StreamError(expected=f"a stream of at least {experiences} expert(s)", got=str(skipped), remedy=remedy)
        reads = map(_read, items)
        # An iterable may block forever, for example on a network. The program must still be able to end.
        return ahead(reads, daemon=True) if self.read_ahead else map(operator.call, reads)


def _read(item: Expert | Entry | Path | str | Callable[[], Expert]) -> Callable[[], Expert]:
    """Do what the background may do; the returned function does the rest."""
    if isinstance(item, Expert):
        return lambda: item
    return read_expert(item).expert if isinstance(item, Entry | Path | str) else item
