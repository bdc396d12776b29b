"""A live display of a run in a terminal."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Protocol, TypeAlias, runtime_checkable

import attrs
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Column

from exml import events

PERIOD = 0.1
"""Seconds between two looks at the loss, which on an accelerator wait for the device."""


@attrs.frozen
class WaitingForProcess:
    """The run to be resumed is not at rest; this process goes on when the other one has ended.

    Args:
        path: folder of the run.
    """

    path: Path


@attrs.frozen
class ExpertsProgress:
    """The experts of a run are being trained.

    Args:
        done: epochs that are over, of all experts.
        total: epochs of all experts.
    """

    done: int
    total: int


@attrs.frozen
class StrategyStarted:
    """A strategy's turn has come; the learner's events that follow are its own.

    Args:
        name: of the strategy in this run.
        experiences: how many experts it will learn from.
    """

    name: str
    experiences: int


@attrs.frozen
class StudentEvaluated:
    """A student was asked about the test images.

    Args:
        name: of its strategy.
        experience: i, after which it was.
        accuracy: row i of the accuracy matrix.
        stream_accuracy: over the experiences 1 to i (Eq. 2).
    """

    name: str
    experience: int
    accuracy: tuple[float, ...]
    stream_accuracy: float


@attrs.frozen
class BaselinesStarted:
    """The students are ready; the baselines are being evaluated.

    Args:
        total: how many there are.
    """

    total: int


@attrs.frozen
class BaselineEvaluated:
    """A baseline was evaluated, or turned out not to apply.

    Args:
        name: of the baseline.
    """

    name: str


RunEvent: TypeAlias = (
    events.Event
    | WaitingForProcess
    | ExpertsProgress
    | StrategyStarted
    | StudentEvaluated
    | BaselinesStarted
    | BaselineEvaluated
)
"""What a run tells: a learner's events and those around them."""


@runtime_checkable
class RunObserver(Protocol):
    """Whoever wants to know; match on the class of the event, as with :class:`exml.events.Observer`."""

    def __call__(self, event: RunEvent, /) -> None:
        """Called in order; an exception ends the run."""
        ...


class ProgressDisplay:
    """A line for the experts, one for each strategy, one for the baselines; no progress where there is no terminal.

    Args:
        console: where to draw.

    >>> with ProgressDisplay(Console(file=None, quiet=True)) as display:
    ...     display(ExpertsProgress(1, 10))
    """

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", table_column=Column(max_width=20, no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=14),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            console=console,
            disable=not console.is_terminal,
            expand=True,
        )
        self._task: TaskID | None = None
        self._experiences = 0
        self._looked = 0.0

    def __enter__(self) -> ProgressDisplay:
        """Begin to draw."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Stop; what was drawn last stays."""
        self._progress.stop()

    def __call__(self, event: RunEvent, /) -> None:
        """Draw what an event changed."""
        if isinstance(event, WaitingForProcess):  # worth a line in a log, too
            self._progress.console.print(f"Another process is at work on {event.path}; waiting for it.", markup=False)
            return
        if self._progress.disable:
            return
        match event:
            case ExpertsProgress(done, total):
                if self._task is None:
                    self._begin("experts", total)
                self._show(done)
            case StrategyStarted(name, experiences):
                self._experiences = experiences
                self._begin(name, experiences)
            case events.ExperienceStarted(experience):
                self._show(experience - 1, f"{experience}/{self._experiences}")
            # Nobody knows how long generation will be beside distillation; each is half an experience here.
            case events.GenerationProgress(experience, done, total):
                note = f"{experience}/{self._experiences} generation {done}/{total}"
                self._show(experience - 1 + done / total / 2, note)
            case events.BufferUpdated(experience):
                self._show(experience - 0.5, f"{experience}/{self._experiences}")
            case events.DistillationProgress(experience, done, total, loss):
                if done == total or time.monotonic() > self._looked + PERIOD:
                    self._looked = time.monotonic()
                    note = f"{experience}/{self._experiences} distillation {done}/{total} loss {float(loss):.2g}"
                    self._show(experience - 0.5 + done / total / 2, note)
            case StudentEvaluated(_, experience, _, stream_accuracy):
                self._show(experience, f"stream accuracy {stream_accuracy:.1%}")
            case BaselinesStarted(total):
                self._begin("baselines", total)
            case BaselineEvaluated():
                if self._task is not None:
                    self._progress.advance(self._task)
            case events.CheckpointWritten() | events.ExperienceFinished():
                pass

    def _begin(self, description: str, total: int) -> None:
        self._end()
        self._task = self._progress.add_task(description, total=total, note="")

    def _end(self) -> None:
        if self._task is not None:
            self._progress.stop_task(self._task)

    def _show(self, done: float, note: str = "") -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=done, note=note)
