"""A live table of a sweep in a terminal."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Literal, TypeAlias

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from exml.learning.events import WaitingForProcess
from exml.runs.sweep._fields import short_names
from exml.runs.sweep.groups import label_of, varied
from exml.runs.sweep.plan import PlannedRun
from exml.runs.sweep.results import Row
from exml.runs.sweep.sweep_events import RunEnded, SweepEvent, SweepStarted
from exml.runs.sweep.tables import duration, new_table

State: TypeAlias = Literal["waiting", "running", "done", "failed"]
STYLES: Mapping[State, str] = {"waiting": "dim", "running": "bold", "done": "", "failed": "red"}


class SweepDisplay:
    """A line for each run, as many as fit; where there is no terminal, a line when a run is over.

    Args:
        console: where to draw.

    >>> from pathlib import Path
    >>> with SweepDisplay(Console(file=None, quiet=True)) as display:
    ...     display(WaitingForProcess(Path("here")))
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started: SweepStarted | None = None
        self._rows: dict[str, Row] = {}
        self._ended: list[str] = []
        self._since = time.monotonic()
        self._live = Live(console=console, get_renderable=self._draw, refresh_per_second=2, transient=True)

    def __enter__(self) -> SweepDisplay:
        """Begin to draw."""
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Stop; what was drawn is taken away."""
        self._live.stop()

    def __call__(self, event: SweepEvent, /) -> None:
        """Draw what an event changed."""
        match event:
            case WaitingForProcess(path):
                self._console.print(f"Another process is at work on {path}; waiting for it.", markup=False)
            case SweepStarted():
                self._started, self._since = event, time.monotonic()
                self._rows = _runs(event.result.rows)
            case RunEnded(name, result):
                self._rows = _runs(result.rows)
                self._ended.append(name)
                if not self._console.is_terminal:
                    self._console.print(self._line(name), markup=False, highlight=False, soft_wrap=True)

    def _line(self, name: str) -> str:
        """What is to be said of a run that is over."""
        assert self._started is not None
        run, row = next(run for run in self._started.plan.runs if run.name == name), self._rows[name]
        place = f"[{len(self._ended)}/{len(self._started.names)}] {run.title}: "
        if row.error is not None:
            return f"{place}failed: {row.error}"
        if row.stream_accuracy is None:
            return f"{place}done, {duration(row.seconds or 0)}"
        return f"{place}stream accuracy {row.stream_accuracy:.1%}, {duration(row.seconds or 0)}"

    def _draw(self) -> RenderableType:
        if self._started is None:
            return Text("")
        plan = self._started.plan
        states: dict[str, State] = {run.name: self._state(run) for run in plan.runs}
        counts = Counter(states.values())
        head = f"{len(states)} runs: " + ", ".join(f"{counts[state]} {state}" for state in STYLES if counts[state])
        left = len(self._started.names) - len(self._ended)
        if self._ended and left:
            head += f"; about {duration((time.monotonic() - self._since) * left / len(self._ended))} left"
        names = short_names(varied(plan.columns, [(run.strategy, run.fields) for run in plan.runs]))
        table = new_table(("seed", "seconds", "stream"))
        table.add_column("state", no_wrap=True, overflow="ellipsis")
        room = max(3, self._console.height - 5)
        shown = self._most_telling(states, room)
        for run in plan.runs:
            if run.name in shown:
                label = label_of(run.strategy, {names[path]: run.fields[path] for path in names if path in run.fields})
                state, seconds, accuracy = self._cells(run, states[run.name])
                cells = [run.scenario, label, str(run.seed), seconds, accuracy, state]
                table.add_row(*map(Text, cells), style=STYLES[states[run.name]])
        hidden = Counter(state for name, state in states.items() if name not in shown)
        more = ", ".join(f"{hidden[state]} {state}" for state in STYLES if hidden[state])
        return Group(Text(head, style="bold"), table, *([Text(f"and {more}", style="dim")] if more else []))

    def _most_telling(self, states: dict[str, State], room: int) -> set[str]:
        """So many runs: those at work, then what was over last, then what comes next."""
        order = [name for name, state in states.items() if state == "running"]
        order += reversed(self._ended)
        order += [name for state in ("failed", "waiting", "done") for name, is_so in states.items() if is_so == state]
        return set(list(dict.fromkeys(order))[:room])

    def _state(self, run: PlannedRun) -> State:
        assert self._started is not None
        row = self._rows.get(run.name)
        if row is not None:
            return "done" if row.error is None else "failed"
        begun = (self._started.folder / "logs" / f"{run.name}.txt").exists()
        return "running" if begun and run.name in self._started.names else "waiting"

    def _cells(self, run: PlannedRun, state: State) -> tuple[str, str, str]:
        """State, seconds, accuracy."""
        row = self._rows.get(run.name)
        if row is not None and row.error is not None:
            return f"failed: {row.error}", "", ""
        if row is not None:
            accuracy = "" if row.stream_accuracy is None else f"{row.stream_accuracy:.1%}"
            return state, f"{row.seconds or 0:.0f}", accuracy
        return (*self._progress(run), "") if state == "running" else (state, "", "")

    def _progress(self, run: PlannedRun) -> tuple[str, str]:
        """From the record that a run keeps of itself, whoever carries it out."""
        assert self._started is not None
        try:
            record = json.loads((self._started.folder / "runs" / run.name / "run.json").read_text(encoding="utf-8"))
            shared = sum(record["shared"].values())
            if run.parts is None:
                return "at work", f"{shared:.0f}"
            mine = record["strategies"][run.strategy]
            own = sum(mine["seconds"].values())
        except (OSError, ValueError, KeyError):  # not there yet
            return "starting", ""
        learned = len(mine["accuracy"])
        phase = f"expert {min(learned + 1, run.experts)}/{run.experts}" if own else "experts"
        return phase, f"{own + shared:.0f}"


def _runs(rows: tuple[Row, ...]) -> dict[str, Row]:
    """By name."""
    return {row.folder.rpartition("/")[2]: row for row in rows if row.folder is not None}
