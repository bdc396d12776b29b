"""Streams of experts (Sec. 2), one expert in use at a time and one on its way."""

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
    """The loader of an expert that is in memory already."""

    expert: Expert

    def __call__(self) -> Expert:
        """The expert itself."""
        return self.expert


@attrs.frozen
class _OnDisk:
    """The loader of an expert of which a stream can read the files ahead of need."""

    path: Path

    def __call__(self) -> Expert:
        """Load it."""
        return load_expert(self.path)


@attrs.frozen(eq=False)
class ExpertStream:
    """A sequence of experts, each loaded when its turn comes and let go of when the next one's does.

    While one expert of a folder is in use, the files of the next are read in the background, so there is never more
    than one in use and one on its way. Its module is built when its turn comes, and what is wrong with it is raised
    then. A stream can be gone through several times, and a slice of it is a stream that loads nothing of the rest.
    Where the length is not known, there is :class:`OpenStream`.

    Args:
        loaders: one for each expert; every call makes or loads it anew, when its turn comes.

    >>> import torch
    >>> head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> stream = ExpertStream.from_experts([Expert(head, (i, i + 1), (1, 2, 2), name=f"e{i}") for i in range(3)])
    >>> len(stream), [expert.name for expert in stream[1:]], stream[0].classes
    (3, ['e1', 'e2'], (0, 1))
    """

    loaders: tuple[Callable[[], Expert], ...] = attrs.field(converter=tuple)

    @classmethod
    def from_experts(cls, experts: Iterable[Expert], /) -> ExpertStream:
        """A stream of experts that are in memory already."""
        return cls([_InMemory(expert) for expert in experts])

    @classmethod
    def from_folder(cls, folder: Path | str, /) -> ExpertStream:
        """All experts of a folder: ``NAME.safetensors`` with a card ``NAME.json`` each.

        They come in the ``order`` of their cards if these have one, else by name, with 2 before 10. The cards are
        checked at once, the weights when they are loaded.

        Raises:
            StreamError: when there is no such folder, nothing in it, or the order is contradictory.
            ExpertError: when a card is faulty, or one of its two files has no other.
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
        """The expert at an index, loaded now, or the stream of a slice."""
        return ExpertStream(self.loaders[index]) if isinstance(index, slice) else self.loaders[index]()

    def __repr__(self) -> str:
        return f"ExpertStream({len(self)} experts)"


def _read(load: Callable[[], Expert]) -> Callable[[], Expert]:
    """What can be done in the background; the rest is done by what it gives."""
    return read_expert(load.path).expert if isinstance(load, _OnDisk) else load
