"""Watches a folder for experts that arrive."""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import attrs

from exml.core.errors import ExmlError, ExmlWarning, ExpertError, StreamError, printable
from exml.experts import ExpertCard, ExpertFiles, read_card, read_expert
from exml.experts.entries import Entry, entries, natural
from exml.experts.loading import examine
from exml.learning.stop import Stop

T = TypeVar("T")
State: TypeAlias = tuple[tuple[int, int] | None, ...]
"""Modification time and size of each file of an expert; None for a missing file."""


@attrs.frozen
class Refused:
    """An expert that the student cannot learn from; ``file`` is the name of its files without the suffix."""

    file: str
    reason: str


@attrs.define
class _Found:
    """An expert that was seen, complete once ``place``, the key of its turn, is known."""

    entry: Entry
    state: State
    since: float = attrs.field(factory=time.monotonic)
    place: tuple[Any, ...] | None = None
    settling: bool = False  # there is no checksum that shows whether the weights are complete
    told: bool = False  # the fault was reported


class FolderWatcher:
    """An iterator over the present and future experts of a folder; waits for the next one until it is stopped.

    Of the experts present, those whose cards have an ``order`` come first, by order; then those that were seen first;
    then by name, with 2 before 10. An expert is returned when its metadata are readable and its weights are complete.
    Without a checksum on its card, its files must not have changed from one look to the next. An expert that stays
    faulty for five polls is returned once as :class:`Refused`, and again only after its files have changed. Only one
    thread at a time may use it.
    """

    def __init__(
        self, folder: Path, done: Iterable[str], first: str | None, stop: Stop, *, poll: float, trust: bool = False
    ) -> None:
        self._folder, self._first, self._stop, self._poll, self._trust = folder, first, stop, poll, trust
        self._done: dict[str, State | None] = dict.fromkeys(done)  # the state of refused files
        self._found: dict[str, _Found] = {}
        self._given: deque[tuple[str, State]] = deque(maxlen=2)  # the one in use and the one being read
        self._looks, self._next_look, self._ambiguous = 0, 0.0, ""

    def __iter__(self) -> FolderWatcher:
        return self

    def __next__(self) -> ExpertFiles | Refused:
        """Wait for the next expert."""
        while not self._stop.asked:
            self._look()
            late = time.monotonic() - 5 * self._poll
            faulty = (name for name, found in self._found.items() if not (found.place or found.settling or found.told))
            overdue = next((name for name in faulty if self._found[name].since < late), None)
            name = overdue or next(iter(self._complete()), None)
            if name is None:
                self._stop.wait(self._poll)
                continue
            entry = self._found[name].entry
            found = _Found(entry, entry.state(), told=overdue is not None)
            try:
                files = read_expert(entry, stop=lambda: self._stop.asked, trust=self._trust)
            except ExmlError as error:
                self._found[name] = found
                if found.told:
                    return Refused(name, str(error))
            else:
                del self._found[name]
                self._done[name] = None
                self._given.append((name, found.state))
                return files
        raise StopIteration

    def plan(self, make: Callable[[Mapping[str, ExpertCard]], T]) -> tuple[dict[str, ExpertCard], T] | None:
        """Wait for an expert that a plan can be made from; None if it was stopped before.

        Args:
            make: makes the plan from the cards of sound experts, in order; an ExmlError refuses the first.

        Returns:
            The cards that the plan was made from, and the plan.
        """
        tried: set[tuple[str, State]] = set()
        while not self._stop.asked:
            self._look()
            cards = {name: card for name in self._complete() if (card := self._sound(name)) is not None}
            while cards:
                first = next(iter(cards))
                try:
                    return cards, make(cards)
                except ExmlError as error:
                    if (state := (first, self._found[first].entry.state())) not in tried:
                        tried.add(state)
                        message = f"no student for the expert {printable(first)}, so exml waits for another: {error}"
                        warnings.warn(message, ExmlWarning, stacklevel=2)
                    del cards[first]
            self._stop.wait(self._poll)
        return None

    def _sound(self, name: str) -> ExpertCard | None:
        try:
            return examine(self._found[name].entry)
        except ExmlError:
            return None

    def refuse(self, name: str) -> None:
        """Mark one of the last two experts as refused; other files under its name are another expert."""
        self._done.update((given, state) for given, state in self._given if given == name)

    def _complete(self) -> list[str]:
        places = {name: found.place for name, found in self._found.items() if found.place is not None}
        return sorted(places, key=places.__getitem__)

    def _look(self) -> None:
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + self._poll
        self._looks += 1
        present = self._entries()
        for gone in self._found.keys() - present.keys():
            del self._found[gone]
        for name, entry in present.items():
            found, refused = self._found.get(name), self._done.get(name)
            if (found is not None and found.place) or (name in self._done and refused is None):
                continue
            state = entry.state()
            if found is None or found.state != state:
                if state != refused:
                    self._found[name] = _Found(entry, state)
                    self._examine(name, settled=False)
            elif found.settling:
                self._examine(name, settled=True)

    def _examine(self, name: str, *, settled: bool) -> None:
        found = self._found[name]
        if None in found.state:
            return
        try:
            card = read_card(found.entry)
        except ExmlError:
            return
        found.settling = card.sha256 is None and not settled
        if not found.settling:
            found.place = (name != self._first, card.order is None, card.order or 0, self._looks, natural(name))

    def _entries(self) -> Mapping[str, Entry]:
        try:
            return entries(self._folder)
        except FileNotFoundError:  # missing for now
            return {}
        except ExpertError as error:  # two experts of one name; those that are known can be learned
            if str(error) != self._ambiguous:
                self._ambiguous = str(error)
                warnings.warn(f"no new experts until this is corrected: {error}", ExmlWarning, stacklevel=2)
            return {name: found.entry for name, found in self._found.items()}
        except OSError as error:
            expected = f"to read the folder {self._folder}"
            raise StreamError(expected=expected, got=str(error), remedy="correct its permissions") from error
