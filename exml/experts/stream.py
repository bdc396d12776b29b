"""Streams of experts (Sec. 2): one expert in use, and at most one more on its way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import overload

import attrs

from exml.core.expert import Expert
from exml.experts.folder import read_cards
from exml.experts.loading import load_expert, read_expert
from exml.experts.prefetch import ahead


@attrs.frozen
class _InMemory:
    """Loads an expert that is in memory."""

    expert: Expert

    def __call__(self) -> Expert:
        """The expert itself."""
        return self.expert


@attrs.frozen
class _OnDisk:
    """Loads an expert from its files, which a stream can read ahead."""

    path: Path

    def __call__(self) -> Expert:
        """Load it."""
        return load_expert(self.path)


@attrs.frozen(eq=False)
class ExpertStream:
    """A sequence of experts, each loaded in its turn and released in the next one's.

    While one expert of a folder is in use, the files of the next are read in the background, so at most two are in
    memory. A module is built in its turn, and its errors are raised then. A stream can be iterated over several times,
    and a slice is a stream that loads nothing else. For an unknown length, use :class:`OpenStream`.

    Args:
        loaders: one per expert; each call makes or loads the expert.

    >>> import torch
    >>> head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> stream = ExpertStream.from_experts([Expert(head, (i, i + 1), (1, 2, 2), name=f"e{i}") for i in range(3)])
    >>> len(stream), [expert.name for expert in stream[1:]], stream[0].classes
    (3, ['e1', 'e2'], (0, 1))
    """

    loaders: tuple[Callable[[], Expert], ...] = attrs.field(converter=tuple)

    @classmethod
    def from_experts(cls, experts: Iterable[Expert], /) -> ExpertStream:
        """A stream of experts in memory."""
        return cls([_InMemory(expert) for expert in experts])

    @classmethod
    def from_folder(cls, folder: Path | str, /) -> ExpertStream:
        """All experts of a folder, in the order of :func:`read_cards`.

        The cards are checked at once, the weights when they are loaded.

        Raises:
            StreamError: when the folder is missing or empty, or the order is contradictory.
            ExpertError: when a card is faulty, or one file of a pair is missing.
        """
        return cls([_OnDisk(Path(folder) / f"{name}.json") for name in read_cards(folder)])

    def __len__(self) -> int:
        return len(self.loaders)

    def __iter__(self) -> Iterator[Expert]:
        if any(isinstance(load, _OnDisk) for load in self.loaders):
            return ahead(map(_read, self.loaders))
        return (load() for load in self.loaders)

    @overload
    def __getitem__(self, index: int, /) -> Expert: ...
    @overload
    def __getitem__(self, index: slice, /) -> ExpertStream: ...
    def __getitem__(self, index: int | slice, /) -> Expert | ExpertStream:
        """Load the expert at an index, or make a stream of a slice."""
        return ExpertStream(self.loaders[index]) if isinstance(index, slice) else self.loaders[index]()

    def __repr__(self) -> str:
        return f"ExpertStream({len(self)} experts)"


def _read(load: Callable[[], Expert]) -> Callable[[], Expert]:
    """Do what the background may do; the returned function does the rest."""
    return read_expert(load.path).expert if isinstance(load, _OnDisk) else load
