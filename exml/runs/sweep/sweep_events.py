"""What a sweep tells while it works."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

import attrs

from exml.learning.events import WaitingForProcess
from exml.runs.sweep.plan import Plan
from exml.runs.sweep.results import SweepResult


@attrs.frozen
class SweepStarted:
    """The folder is this process's, and the runs begin.

    Args:
        plan: of the sweep, with what is done already.
        names: of the runs that there is something to do for.
        folder: of the sweep.
        result: what there is already.
    """

    plan: Plan
    names: tuple[str, ...]
    folder: Path
    result: SweepResult


@attrs.frozen
class RunEnded:
    """A run is over.

    Args:
        name: of the run.
        result: the table with it.
    """

    name: str
    result: SweepResult


SweepEvent: TypeAlias = WaitingForProcess | SweepStarted | RunEnded
"""What a sweep tells."""


@runtime_checkable
class SweepObserver(Protocol):
    """Whoever wants to know; match on the class of the event, as with :class:`exml.learning.events.Observer`."""

    def __call__(self, event: SweepEvent, /) -> None:
        """Called in order; an exception ends the sweep."""
        ...
