"""A long generation made of parts, each of which reports and resumes by itself."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from exml.core.shapes import State
from exml.protocols import Journal

_PART = "part."


@attrs.frozen(eq=False)
class PartJournal:
    """The journal of one part; to the outer journal it is some of the steps of the whole.

    Args:
        outer: the journal of the whole.
        begin: steps of the whole before this part.
        end: steps of the whole at the end of this part.
        whole: steps of the whole.
        around: what the other parts need to be resumed.
        restored: the state in which this part was killed.
    """

    outer: Journal
    begin: int
    end: int
    whole: int
    around: Callable[[], State]
    restored: State | None = None

    def restore(self) -> State | None:
        """The state of this part."""
        return self.restored

    def record(self, done: int, total: int, state: Callable[[], State], /) -> None:
        """Report to the outer journal in steps of the whole."""
        at = self.begin + (self.end - self.begin) * done // total
        self.outer.record(
            at, self.whole, lambda: {**self.around(), **{_PART + name: part for name, part in state().items()}}
        )


def part_of(state: State) -> State | None:
    """The state of the part in flight, out of the state of the whole; None when no part was."""
    part = {name.removeprefix(_PART): tensor for name, tensor in state.items() if name.startswith(_PART)}
    return part or None
