"""Watches a folder for experts that arrive."""

from __future__ import annotations

import heapq
import os
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

import attrs

from exml.core.errors import ExmlError
from exml.experts import ExpertCard, ExpertFiles, read_card, read_expert
from exml.experts.card import natural
from exml.learning.stop import Stop

State: TypeAlias = tuple[tuple[int, int] | None, tuple[int, int] | None]
"""Modification time and size of a card and of its weights; None for a missing file."""


@attrs.frozen
class Refused:
    """An expert that the student cannot learn from.

    Args:
        file: name of its files, without the suffix.
        reason: what is wrong, and the remedy.
    """

    file: str
    reason: str


@attrs.define
class _Waiting:
    """Files that are not, or not yet known to be, a complete expert.

    Args:
        state: state of the files.
        since: when they were first seen in this state.
        settling: the card is readable but has no checksum that would show whether the weights are complete.
        told: whether the fault was reported.
    """

    state: State
    since: float = attrs.field(factory=time.monotonic)
    settling: bool = False
    told: bool = False


class FolderWatcher:
    """An iterator over the present and future experts of a folder; waits for the next one until it is stopped.

    Of the experts present, those whose cards have an ``order`` come first, by order; then those that were seen first;
    then by name, with 2 before 10. A pair is returned when both files exist, the card is readable and the weights are
    complete. Without a checksum on the card, its files must not have changed from one look to the next. A pair that
    stays faulty is returned once as :class:`Refused`, and again only after its files have changed. Used by one thread
    at a time.

    Args:
        folder: path of the folder; may be empty or missing for a while.
        done: names of experts to skip.
        first: name of the expert that comes before all others.
        stop: ends the iteration, also while it waits.
        poll: seconds between two looks at the folder; a faulty pair is refused after five times as long.
    """

    def __init__(self, folder: Path, done: Iterable[str], first: str | None, stop: Stop, poll: float) -> None:
        self._folder, self._first, self._stop, self._poll = folder, first, stop, poll
        self._done: dict[str, State | None] = dict.fromkeys(done)  # the state of refused files
        self._waiting: dict[str, _Waiting] = {}
        self._queue: list[tuple[bool, bool, int, int, list[tuple[int, str]], str]] = []
        self._queued: set[str] = set()
        self._given: deque[tuple[str, State]] = deque(maxlen=2)  # the one in use and the one being read
        self._looks, self._next_look = 0, 0.0

    def __iter__(self) -> FolderWatcher:
        return self

    def __next__(self) -> ExpertFiles | Refused:
        """Wait for the next expert."""
        while not self._stop.asked:
            self._look()
            overdue = self._overdue()
            name = overdue or (self._pop() if self._queue else None)
            if name is None:
                self._stop.wait(self._poll)
                continue
            waiting = _Waiting(self._state(name))
            try:
                files = read_expert(self._folder / f"{name}.json")
            except ExmlError as error:
                self._waiting[name] = waiting
                if overdue:
                    waiting.told = True
                    return Refused(name, str(error))
            else:
                self._waiting.pop(name, None)
                self._done[name] = None
                self._given.append((name, waiting.state))
                return files
        raise StopIteration

    def cards(self) -> dict[str, ExpertCard]:
        """The cards of the experts present, in order, as soon as there is one; empty if it was stopped before."""
        while not self._stop.asked:
            self._look()
            if self._queue:
                return {entry[-1]: read_card(self._folder / f"{entry[-1]}.json") for entry in sorted(self._queue)}
            self._stop.wait(self._poll)
        return {}

    def refuse(self, name: str) -> None:
        """Mark one of the last two experts as refused; other files under its name are another expert."""
        for given, state in list(self._given):
            if given == name:
                self._done[name] = state

    def _look(self) -> None:
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + self._poll
        self._looks += 1
        names = self._names()
        for gone in self._waiting.keys() - names:
            del self._waiting[gone]
        for name in names - self._queued:
            before = self._done.get(name)
            if name in self._done and before is None:
                continue
            state = self._state(name)
            waiting = self._waiting.get(name)
            if state == before or (waiting is not None and waiting.state == state and not waiting.settling):
                continue
            self._examine(name, state, settled=waiting is not None and waiting.state == state)

    def _examine(self, name: str, state: State, settled: bool) -> None:
        self._waiting[name] = _Waiting(state)
        if None in state:
            return
        try:
            card = read_card(self._folder / f"{name}.json")
        except ExmlError:
            return
        if card.sha256 is None and not settled:
            self._waiting[name].settling = True
            return
        del self._waiting[name]
        order = card.order
        heapq.heappush(self._queue, (name != self._first, order is None, order or 0, self._looks, natural(name), name))
        self._queued.add(name)

    def _pop(self) -> str:
        name = heapq.heappop(self._queue)[-1]
        self._queued.discard(name)
        return name

    def _overdue(self) -> str | None:
        """A pair that has been faulty for long enough and was not reported."""
        late = time.monotonic() - 5 * self._poll
        faulty = (name for name, one in self._waiting.items() if not (one.told or one.settling))
        return next((name for name in faulty if self._waiting[name].since < late), None)

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
