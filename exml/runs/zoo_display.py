"""A live display of the training of experts in a terminal."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from exml.runs.zoo_events import ExpertTrained, ZooEvent, ZooStarted


class ZooDisplay:
    """A bar for all epochs and one for each expert under way; where there is no terminal, a line for each that is over.

    Args:
        console: where to draw.

    >>> with ZooDisplay(Console(file=None, quiet=True)) as display:
    ...     display(ZooStarted(experts=5, epochs=100))
    """

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("epochs"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._all = self._progress.add_task("all experts", total=None)
        self._tasks: dict[tuple[str, int], TaskID] = {}
        self._done: dict[tuple[str, int], int] = {}

    def __enter__(self) -> ZooDisplay:
        """Begin to draw."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Stop; what was drawn last stays."""
        self._progress.stop()

    def __call__(self, event: ZooEvent, /) -> None:
        """Draw what an event changed."""
        match event:
            case ZooStarted():
                self._progress.update(self._all, total=event.epochs)
            case ExpertTrained():
                self._draw(event)
            case _:
                self._print(f"Another process is at work on {event.path}; waiting for it.")

    def _draw(self, event: ExpertTrained) -> None:
        key = event.stream, event.expert
        if not event.over and key not in self._tasks:
            self._tasks[key] = self._progress.add_task(f"{event.stream}, expert {event.expert}", total=event.epochs)
        if not event.over:
            self._progress.update(self._tasks[key], completed=event.done)
            self._done[key] = event.done
        else:
            if key in self._tasks:
                self._progress.remove_task(self._tasks.pop(key))
            self._done[key] = event.epochs  # also of one that failed: nothing of it is left to do
            self._print(f"{event.stream}, expert {event.expert}: {_outcome(event)}")
        self._progress.update(self._all, completed=sum(self._done.values()))

    def _print(self, line: str) -> None:
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _outcome(event: ExpertTrained) -> str:
    if event.error is not None:
        return f"failed: {event.error}"
    return "ready" if event.accuracy is None else f"{event.accuracy:.1%} on its validation images"
