"""A live display of a run in a terminal."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Column

from exml.learning import events
from exml.learning.events import (
    BaselineEvaluated,
    BaselinesStarted,
    Event,
    ExpertRefused,
    ExpertsProgress,
    StrategyStarted,
    StudentEvaluated,
    WaitingForExpert,
    WaitingForProcess,
)

PERIOD = 0.1
"""Seconds between two looks at the loss, which on an accelerator wait for the device."""


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
        self._of = ""
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

    def __call__(self, event: Event, /) -> None:
        """Draw what an event changed."""
        if isinstance(event, WaitingForProcess):  # worth a line in a log, too
            self._progress.console.print(f"Another process is at work on {event.path}; waiting for it.", markup=False)
            return
        if isinstance(event, ExpertRefused):
            line = f"Not learned from: {event.file}: {event.reason}"
            self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
            return
        if self._progress.disable:
            return
        match event:
            case ExpertsProgress(done, total):
                if self._task is None:
                    self._begin("experts", total)
                self._show(done)
            case StrategyStarted(name, experiences):
                self._of = "" if experiences is None else f"/{experiences}"
                self._begin(name, experiences)
            case events.ExperienceStarted(experience):
                self._show(experience - 1, f"{experience}{self._of}")
            # Nobody knows how long generation will be beside distillation; each is half an experience here.
            case events.GenerationProgress(experience, done, total):
                note = f"{experience}{self._of} generation {done}/{total}"
                self._show(experience - 1 + done / total / 2, note)
            case events.BufferUpdated(experience):
                self._show(experience - 0.5, f"{experience}{self._of}")
            case events.DistillationProgress(experience, done, total, loss):
                if done == total or time.monotonic() > self._looked + PERIOD:
                    self._looked = time.monotonic()
                    note = f"{experience}{self._of} distillation {done}/{total} loss {float(loss):.2g}"
                    self._show(experience - 0.5 + done / total / 2, note)
            case StudentEvaluated(_, experience, _, stream_accuracy):
                self._show(experience, f"stream accuracy {stream_accuracy:.1%}")
            case BaselinesStarted(total):
                self._begin("baselines", total)
            case BaselineEvaluated():
                if self._task is not None:
                    self._progress.advance(self._task)
            case WaitingForExpert():
                self._note("waiting for an expert")
            case _:
                pass

    def _begin(self, description: str, total: int | None) -> None:
        self._end()
        self._task = self._progress.add_task(description, total=total, note="")

    def _end(self) -> None:
        if self._task is not None:
            self._progress.stop_task(self._task)

    def _note(self, note: str) -> None:
        if self._task is not None:
            self._progress.update(self._task, note=note)

    def _show(self, done: float, note: str = "") -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=done, note=note)
