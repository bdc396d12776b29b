"""Streams of experts (Sec. 2), one expert in memory at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import overload

import attrs

from exml.errors import ExpertError, StreamError
from exml.experts.card import load_expert, read_card
from exml.experts.expert import Expert


def _same(expert: Expert) -> Expert:
    return expert


@attrs.frozen(eq=False)
class ExpertStream:
    """A sequence of experts, each loaded when its turn comes and let go of when the next one's does.

    It can be gone through several times, and a slice of it is a stream that loads nothing of the rest.

    Args:
        loaders: one for each expert; every call makes or loads it anew.

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
        return cls([partial(_same, expert) for expert in experts])

    @classmethod
    def from_folder(cls, folder: Path | str, /) -> ExpertStream:
        """All experts of a folder: ``NAME.safetensors`` with a card ``NAME.json`` each.

        They come in the ``order`` of their cards if these have one, else by name, with 2 before 10. The cards are
        checked at once, the weights when they are loaded.

        Raises:
            StreamError: when there is no such folder, nothing in it, or the order is contradictory.
            ExpertError: when a card is faulty, or one of its two files has no other.
        """
        folder = Path(folder)
        cards = {path.stem for path in folder.glob("*.json")}
        weights = {path.stem for path in folder.glob("*.safetensors")}
        if not cards and not weights:
            raise StreamError(
                expected=f"experts (NAME.safetensors and NAME.json) in {folder}",
                got="an empty folder" if folder.is_dir() else "no such folder",
                remedy="check the path; exml.experts.save_expert writes an expert",
            )
        for alone, other in ((cards - weights, "safetensors"), (weights - cards, "json")):
            if alone:
                raise ExpertError(
                    expected=f"{folder / min(alone)}.{other}",
                    got="no such file",
                    remedy="an expert is a pair of files; add the missing one, or move the other one away",
                )
        orders = {name: read_card(folder / f"{name}.json").order for name in sorted(cards, key=_natural)}
        given = [order for order in orders.values() if order is not None]
        if given and len(set(given)) < len(orders):
            raise StreamError(
                expected=f"an order of its own on every card in {folder}, or none on any",
                got=str(orders),
                remedy="correct the cards",
            )
        names = sorted(orders, key=lambda name: orders[name] or 0)
        return cls([partial(load_expert, folder / f"{name}.json") for name in names])

    def __len__(self) -> int:
        return len(self.loaders)

    def __iter__(self) -> Iterator[Expert]:
        for load in self.loaders:
            yield load()

    @overload
    def __getitem__(self, index: int, /) -> Expert: ...
    @overload
    def __getitem__(self, index: slice, /) -> ExpertStream: ...
    def __getitem__(self, index: int | slice, /) -> Expert | ExpertStream:
        """The expert at an index, loaded now, or the stream of a slice."""
        return ExpertStream(self.loaders[index]) if isinstance(index, slice) else self.loaders[index]()

    def __repr__(self) -> str:
        return f"ExpertStream({len(self)} experts)"


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts ``expert-2`` before ``expert-10``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
