"""The journal of one part of a generation that consists of several."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from exml.core.shapes import State
from exml.protocols import Journal

_PART = "part."


@attrs.frozen(eq=False)
class NestedJournal:
    """Reports the steps of one part, from ``begin`` to ``end``, as steps of the whole."""

    outer: Journal
    begin: int
    end: int
    total: int
    around: Callable[[], State]
    """Returns the state of everything outside this part."""
    restored: State | None = None
    """The state of this part when the run was interrupted."""

    def restore(self) -> State | None:
        """The state of this part."""
        return self.restored

    def record(self, done: int, total: int, state: Callable[[], State], /) -> None:
        """Report to the outer journal."""
        step = self.begin + (self.end - self.begin) * done // total
        self.outer.record(
            step, self.total, lambda: {**self.around(), **{_PART + name: part for name, part in state().items()}}
        )


def part_of(state: State) -> State | None:
    """The part's state in the state of the whole; None if no part was running."""
    part = {name.removeprefix(_PART): tensor for name, tensor in state.items() if name.startswith(_PART)}
    return part or None
