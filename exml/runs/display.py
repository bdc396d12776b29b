"""The progress display of runs, sweeps and zoos in a terminal."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn
from rich.table import Column
from torch import Tensor

from exml.learning import events
from exml.learning.events import Event

PERIOD = 0.2
"""Seconds between two updates; each reads the loss, which synchronizes an accelerator."""


class ProgressDisplay:
    """One line per stage of a run, or per running job: progress, estimated time left, phase, loss, images per second.

    Without a terminal it prints only what belongs in a log: refused experts, jobs that ended, waiting for a process.

    Args:
        console: the console to draw on.

    >>> from exml.learning.events import ExpertsProgress
    >>> with ProgressDisplay(Console(file=None, quiet=True)) as display:
    ...     display(ExpertsProgress(1, 10))
    """

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", table_column=Column(max_width=13, no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=5),
            TaskProgressColumn(),
            TextColumn("{task.fields[left]}", table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[note]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            console=console,
            disable=not console.is_terminal,
            expand=True,
        )
        self._stage: _Stage | None = None
        self._length = ""
        self._phase = _Phase("", 0)
        self._jobs: dict[str, TaskID] = {}
        self._ended = self._total = 0

    def __enter__(self) -> ProgressDisplay:
        """Start drawing."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Stop drawing; the last state stays on the screen."""
        self._progress.stop()

    def __call__(self, event: Event, /) -> None:
        """Draw what an event changed."""
        match event:
            case events.WaitingForProcess(path):
                self._print(f"Another process works in {path}; waiting for it.")
            case events.ExpertRefused(file, reason):
                self._print(f"Not learned from: {file}: {reason}")
            case events.JobsStarted() | events.JobProgress() | events.JobEnded():
                self._job(event)
            case _ if not self._progress.disable:
                self._run(event)
            case _:
                pass

    def _run(self, event: Event) -> None:
        match event:
            case events.ExpertsProgress(done, total):
                if self._stage is None:
                    self._begin("experts", total)
                self._show(done)
            case events.StrategyStarted(name, experiences):
                self._length = "" if experiences is None else f"/{experiences}"
                self._begin(name, experiences)
            case events.ExperienceStarted(experience):
                self._show(experience - 1, f"{experience}{self._length}")
            # The ratio of generation to distillation is unknown here; each counts as half an experience.
            case events.GenerationProgress(experience, done, total, images):
                self._step(experience, "generation", done, total, images / total)
            case events.BufferUpdated(experience):
                self._show(experience - 0.5, f"{experience}{self._length}")
            case events.DistillationProgress(experience, done, total, loss, images):
                self._step(experience, "distillation", done, total, images, loss)
            case events.StudentEvaluated(_, experience, _, stream_accuracy):
                self._show(experience, f"stream accuracy {stream_accuracy:.1%}")
            case events.BaselinesStarted(total):
                self._begin("baselines", total)
            case events.BaselineEvaluated() if self._stage is not None:
                self._show(self._stage.done + 1)
            case events.WaitingForExpert() if self._stage is not None:
                self._show(self._stage.done, "waiting for an expert")
            case _:
                pass

    def _step(
        self, experience: int, phase: str, done: int, total: int, images: float, loss: Tensor | None = None
    ) -> None:
        """Draw a step of generation or distillation, unless the last one was drawn a moment ago."""
        if self._phase.name != f"{experience} {phase}":
            self._phase = _Phase(f"{experience} {phase}", done - 1)
        if done < total and time.monotonic() < self._phase.drawn + PERIOD:
            return
        self._phase.drawn = time.monotonic()
        said = f"{experience}{self._length} {phase} {done}/{total}"
        said += "" if loss is None else f" loss {float(loss):.2g}"
        said += self._phase.speed(done, images)
        half = 1.0 if phase == "generation" else 0.5
        self._show(experience - half + done / total / 2, said)

    def _job(self, event: events.JobsStarted | events.JobProgress | events.JobEnded) -> None:
        match event:
            case events.JobsStarted(names, total):
                self._ended, self._total = total - len(names), total
                self._begin("all jobs", total, done=self._ended)
            case events.JobProgress(name, done, total):
                if name not in self._jobs:
                    self._jobs[name] = self._progress.add_task(name, left="", note="")
                self._progress.update(self._jobs[name], completed=done, total=total)
            case events.JobEnded(name, summary, error):
                if name in self._jobs:
                    self._progress.remove_task(self._jobs.pop(name))
                self._ended += 1
                outcome = summary or "done" if error is None else f"failed: {error}"
                self._print(f"[{self._ended}/{self._total}] {name}: {outcome}")
        running = [task for task in self._progress.tasks if task.id in self._jobs.values()]
        self._show(self._ended + sum(task.percentage for task in running) / 100, f"{self._ended}/{self._total}")

    def _begin(self, description: str, total: float | None, done: float = 0.0) -> None:
        if self._stage is not None:
            self._progress.stop_task(self._stage.task)
            self._progress.update(self._stage.task, left="")
        self._stage = _Stage(self._progress.add_task(description, total=total, left="", note=""), total, done)

    def _show(self, done: float, note: str = "") -> None:
        if self._stage is not None:
            left = self._stage.left(done)
            self._progress.update(self._stage.task, completed=done, left=left, note=note)

    def _print(self, line: str) -> None:
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)


class _Stage:
    """A line of the display, and the time that its task will still take."""

    def __init__(self, task: TaskID, total: float | None, done: float) -> None:
        self.task, self.done = task, done
        self._total = total
        self._first: tuple[float, float] | None = None

    def left(self, done: float) -> str:
        """``"ETA 1:05"``, or nothing while it is unknown."""
        self.done, now = done, time.monotonic()
        if self._first is None:
            self._first = done, now
        first, since = self._first
        if self._total is None or not first < done < self._total:
            return ""
        minutes, seconds = divmod(round((now - since) * (self._total - done) / (done - first)), 60)
        clock = f"{minutes}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}"
        return f"ETA {clock}:{seconds:02}"


class _Phase:
    """Generation or distillation of one experience, and its speed."""

    def __init__(self, name: str, done: int) -> None:
        self.name, self.drawn = name, 0.0
        self._first, self._since = done, time.monotonic()

    def speed(self, done: int, images: float) -> str:
        """Images per second since the phase was first seen, with ``images`` per step; nothing until it is known."""
        passed = time.monotonic() - self._since
        return f" {(done - self._first) * images / passed:.0f} img/s" if passed > PERIOD else ""
