"""Watches a folder for experts that arrive."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import attrs

from exml.core.errors import ExmlError
from exml.experts import ExpertCard, ExpertFiles, read_card, read_expert
from exml.experts.card import natural
from exml.learning.stop import Stop

State: TypeAlias = tuple[tuple[int, int] | None, ...]
"""Modification time and size of a card and of its weights; None for a missing file."""


@attrs.frozen
class Refused:
    """An expert that the student cannot learn from; ``file`` is the name of its files without the suffix."""

    file: str
    reason: str


@attrs.define
class _Pair:
    """The files of an expert, complete once ``place``, the key of its turn, is known."""

    state: State
    since: float = attrs.field(factory=time.monotonic)
    place: tuple[Any, ...] | None = None
    settling: bool = False  # there is no checksum that shows whether the weights are complete
    told: bool = False  # the fault was reported


class FolderWatcher:
    """An iterator over the present and future experts of a folder; waits for the next one until it is stopped.

    Of the experts present, those whose cards have an ``order`` come first, by order; then those that were seen first;
    then by name, with 2 before 10. A pair is returned when both files exist, the card is readable and the weights are
    complete. Without a checksum on the card, its files must not have changed from one look to the next. A pair that
    stays faulty for five polls is returned once as :class:`Refused`, and again only after its files have changed. Only
    one thread at a time may use it.
    """

    def __init__(self, folder: Path, done: Iterable[str], first: str | None, stop: Stop, poll: float) -> None:
        self._folder, self._first, self._stop, self._poll = folder, first, stop, poll
        self._done: dict[str, State | None] = dict.fromkeys(done)  # the state of refused files
        self._pairs: dict[str, _Pair] = {}
        self._given: deque[tuple[str, State]] = deque(maxlen=2)  # the one in use and the one being read
        self._looks, self._next_look = 0, 0.0

    def __iter__(self) -> FolderWatcher:
        return self

    def __next__(self) -> ExpertFiles | Refused:
        """Wait for the next expert."""
        while not self._stop.asked:
            self._look()
            late = time.monotonic() - 5 * self._poll
            faulty = (name for name, pair in self._pairs.items() if not (pair.place or pair.settling or pair.told))
            overdue = next((name for name in faulty if self._pairs[name].since < late), None)
            name = overdue or next(iter(self._complete()), None)
            if name is None:
                self._stop.wait(self._poll)
                continue
            pair = _Pair(self._state(name), told=overdue is not None)
            try:
                files = read_expert(self._folder / f"{name}.json")
            except ExmlError as error:
                self._pairs[name] = pair
                if pair.told:
                    return Refused(name, str(error))
            else:
                del self._pairs[name]
                self._done[name] = None
                self._given.append((name, pair.state))
                return files
        raise StopIteration

    def cards(self) -> dict[str, ExpertCard]:
        """The cards of the experts present, in order, as soon as there is one; empty if it was stopped before."""
        while not self._stop.asked:
            self._look()
            if complete := self._complete():
                return {name: read_card(self._folder / f"{name}.json") for name in complete}
            self._stop.wait(self._poll)
        return {}

    def refuse(self, name: str) -> None:
        """Mark one of the last two experts as refused; other files under its name are another expert."""
        self._done.update((given, state) for given, state in self._given if given == name)

    def _complete(self) -> list[str]:
        places = {name: pair.place for name, pair in self._pairs.items() if pair.place is not None}
        return sorted(places, key=places.__getitem__)

    def _look(self) -> None:
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + self._poll
        self._looks += 1
        names = self._names()
        for gone in self._pairs.keys() - names:
            del self._pairs[gone]
        for name in names:
            pair, refused = self._pairs.get(name), self._done.get(name)
            if (pair is not None and pair.place) or (name in self._done and refused is None):
                continue
            state = self._state(name)
            if pair is None or pair.state != state:
                if state != refused:
                    self._pairs[name] = _Pair(state)
                    self._examine(name, settled=False)
            elif pair.settling:
                self._examine(name, settled=True)

    def _examine(self, name: str, *, settled: bool) -> None:
        pair = self._pairs[name]
        if None in pair.state:
            return
        try:
            card = read_card(self._folder / f"{name}.json")
        except ExmlError:
            return
        pair.settling = card.sha256 is None and not settled
        if not pair.settling:
            pair.place = (name != self._first, card.order is None, card.order or 0, self._looks, natural(name))

    def _names(self) -> set[str]:
        try:
            with os.scandir(self._folder) as entries:
                parts = [entry.name.rpartition(".") for entry in entries]
        except OSError:  # missing for now
            return set()
        return {name for name, _, end in parts if end in ("json", "safetensors") and not name.startswith(".")}

    def _state(self, name: str) -> State:
        def of(end: str) -> tuple[int, int] | None:
            try:
                found = (self._folder / f"{name}{end}").stat()
            except OSError:
                return None
            return found.st_mtime_ns, found.st_size

        return of(".json"), of(".safetensors")
