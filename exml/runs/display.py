"""The progress display of runs, sweeps and zoos in a terminal."""

from __future__ import annotations

import time
from importlib.util import find_spec

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn
from rich.table import Column
from torch import Tensor

from exml.core.errors import printable
from exml.learning import events
from exml.learning.events import Event

PERIOD = 0.2
"""Seconds between two updates; each reads the loss, which synchronizes an accelerator."""


class ProgressDisplay:
    """One line per stage of a run, or per running job: progress, estimated time left, phase, loss, images per second.

    In a notebook this needs the package ipywidgets. Without it, and without a terminal, it prints only refused experts,
    jobs that ended, and waiting for another process.

    Args:
        console: the console to draw on.

    >>> from exml.runs import ProgressDisplay
    >>> from rich.console import Console
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
            disable=not (console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)),
            expand=True,
        )
        self._stage: TaskID | None = None
        self._total: float | None = None
        self._done = 0.0
        self._since: tuple[float, float] | None = None  # what was done when, at the first update of the stage
        self._length = ""
        self._phase, self._phase_since, self._drawn = "", (0, 0.0), 0.0
        self._jobs: dict[str, TaskID] = {}
        self._ended = self._of = 0

    def __enter__(self) -> ProgressDisplay:
        """Start drawing."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop drawing; the last state stays on the screen."""
        self._progress.stop()

    def __call__(self, event: Event, /) -> None:
        """Draw what an event changed."""
        match event:
            case events.WaitingForProcess(path):
                self._print(f"Another process works in {path}; waiting for it.")
            case events.ExpertRefused(file, reason):
                self._print(f"Not learned from: {printable(file)}: {reason}")
            case events.ExpertScreened(_, screening) if screening.learned and screening.problems:
                self._print(printable(f"Suspect: {screening.expert}: {screening.problems}"))
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
            case events.BaselineEvaluated():
                self._show(self._done + 1)
            case events.WaitingForExpert():
                self._show(self._done, "waiting for an expert")
            case events.ReportStarted():
                self._show(self._done, "comparing with the experts")
            case _:
                pass

    def _step(
        self, experience: int, phase: str, done: int, total: int, images: float, loss: Tensor | None = None
    ) -> None:
        """Draw a step of generation or distillation, unless the last one was drawn a moment ago."""
        now, name = time.monotonic(), f"{experience}{self._length} {phase}"
        if self._phase != name:
            self._phase, self._phase_since, self._drawn = name, (done - 1, now), 0.0
        if done < total and now < self._drawn + PERIOD:
            return
        self._drawn = now
        first, since = self._phase_since
        note = f"{name} {done}/{total}"
        note += "" if loss is None else f" loss {float(loss):.2g}"
        note += f" {(done - first) * images / (now - since):.0f} img/s" if now - since > PERIOD else ""
        self._show(experience - (1.0 if phase == "generation" else 0.5) + done / total / 2, note)

    def _job(self, event: events.JobsStarted | events.JobProgress | events.JobEnded) -> None:
        match event:
            case events.JobsStarted(names, total):
                self._ended, self._of = total - len(names), total
                self._begin("all jobs", total)
            case events.JobProgress(name, done, total):
                if name not in self._jobs:
                    self._jobs[name] = self._progress.add_task(name, left="", note="")
                self._progress.update(self._jobs[name], completed=done, total=total)
            case events.JobEnded(name, summary, error):
                if name in self._jobs:
                    self._progress.remove_task(self._jobs.pop(name))
                self._ended += 1
                outcome = summary or "done" if error is None else f"failed: {error}"
                self._print(f"[{self._ended}/{self._of}] {name}: {outcome}")
        running = [task for task in self._progress.tasks if task.id in self._jobs.values()]
        self._show(self._ended + sum(task.percentage for task in running) / 100, f"{self._ended}/{self._of}")

    def _begin(self, description: str, total: float | None) -> None:
        if self._stage is not None:
            self._progress.stop_task(self._stage)
            self._progress.update(self._stage, left="")
        self._stage = self._progress.add_task(description, total=total, left="", note="")
        self._total, self._done, self._since = total, 0.0, None

    def _show(self, done: float, note: str = "") -> None:
        if self._stage is not None:
            self._done = done
            self._progress.update(self._stage, completed=done, left=self._left(), note=note)

    def _left(self) -> str:
        """``"ETA 1:05"``, or nothing while it is unknown."""
        done, now = self._done, time.monotonic()
        if self._since is None:
            self._since = done, now
        first, since = self._since
        if self._total is None or not first < done < self._total:
            return ""
        minutes, seconds = divmod(round((now - since) * (self._total - done) / (done - first)), 60)
        clock = f"{minutes}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}"
        return f"ETA {clock}:{seconds:02}"

    def _print(self, line: str) -> None:
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
