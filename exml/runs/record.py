"""The folder of a run and its record, ``run.json``: the request, and the progress that no checkpoint holds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

import attrs

from exml.core.errors import CheckpointError
from exml.core.execution import EAGER, Execution
from exml.core.files import file_digest, write_text
from exml.core.ranks import Ranks
from exml.core.records import read_record, write_record
from exml.experts.labels import LabelPlan
from exml.runs.environment import Environment
from exml.runs.folder_lock import lock, require_free
from exml.runs.forecast import Forecast
from exml.runs.result import Result, Seconds
from exml.runs.student_plan import StudentPlan

RECORD, RESULT, PLAN, LOG = "run.json", "result.json", "plan.yaml", "log"
"""Names of the record, of the result, of the label plan, and of the folder that loggers write to."""
PERIOD = 2.0
"""Seconds between two writes of the record."""
Phase: TypeAlias = Literal["experts", "generation", "distillation", "evaluation"]


@attrs.frozen
class Request:
    """What the students depend on, apart from the machine; a resumed run must have the same request.

    A run over a scenario has a scenario, a split, and whether the experts' initial weights are known; other runs have a
    student, the choices about labels as text, and the fingerprints of live experts.
    """

    strategies: Mapping[str, Any]
    seed: int
    device: str
    execution: Execution = EAGER
    scenario: str | None = None
    split: Literal["test", "validation"] | None = None
    student: StudentPlan | None = None
    label_choices: str = ""
    experts: Mapping[str, Any] | None = None
    start: Literal["known", "unknown"] = "known"


@attrs.define
class Progress:
    """The progress of one strategy: the rows of its accuracy matrix, its time, and its forecast, if there is one."""

    accuracy: tuple[tuple[float, ...], ...] = ()
    seconds: Seconds = attrs.field(factory=Seconds)
    forecast: Forecast | None = None


@attrs.define
class Record:
    """The contents of ``run.json``; a run of another version cannot be resumed.

    ``labels`` is the label plan, which grows with the experts of a followed folder. ``shared`` is the time of the
    experts and the baselines, and ``files`` the SHA-256 of each other file of a run that has ended or was stopped, by
    its path in the folder.
    """

    request: Request
    environments: tuple[Environment, ...] = ()
    shared: Seconds = attrs.field(factory=Seconds)
    strategies: dict[str, Progress] = attrs.field(factory=dict[str, Progress])
    files: dict[str, str] = attrs.field(factory=dict[str, str])
    labels: LabelPlan | None = None
    version: Literal[4] = 4


def read_result(folder: Path) -> Result | None:
    """The result of a run that has ended or was stopped; None if it has not, or if ``result.json`` was changed since.

    Raises:
        CheckpointError: the record of the run is damaged.
    """
    path = folder / RESULT
    if not (path.exists() and (folder / RECORD).exists()):
        return None
    known = read_record(folder / RECORD, Record).files.get(RESULT)
    return Result.load(path) if known == file_digest(path) else None


def begun(path: Path, *, resume: bool) -> Record | None:
    """The record of the run to resume; None for a new run, whose folder must be new or empty."""
    if not resume:
        require_free(path, RECORD, "run")
        return None
    if not (path / RECORD).exists():
        raise CheckpointError(
            expected=f"a run in {path}", got="none", remedy="check the path, or start the run without resuming"
        )
    return read_record(path / RECORD, Record)


class RunFolder:
    """Opens the folder of a run, holds it for this process, and counts the time of each phase in the record.

    A process that resumes a run calls ``on_wait`` and waits for another one that still works on it: killing ``uv run``,
    for example, leaves the process that it started running. A new run, whose ``on_wait`` is None, refuses to wait. Only
    the leader of the ranks holds the folder and writes.
    """

    def __init__(
        self,
        path: Path,
        request: Request,
        environment: Environment,
        on_wait: Callable[[], None] | None,
        ranks: Ranks,
        labels: LabelPlan | None = None,
    ) -> None:
        self.path, self.environment = path, environment
        self.result = path / RESULT
        self._ranks = ranks
        self._lock: IO[bytes] | None = None
        if ranks.leader:
            if on_wait is not None:
                _require_same(read_record(path / RECORD, Record).request, request, path)
            self._lock = lock(path, on_wait)
            self.record = Record(request, labels=labels) if on_wait is None else read_record(path / RECORD, Record)
            if environment not in self.record.environments:
                self.record.environments += (environment,)
            for name in request.strategies:
                self.record.strategies.setdefault(name, Progress())
            self._write()
        ranks.wait()
        if not ranks.leader:
            self.record = read_record(path / RECORD, Record)
        self._strategy: str | None = None
        self._phase: Phase | None = "experts"
        self._since = self._saved = time.perf_counter()

    def __enter__(self) -> RunFolder:
        """The folder belongs to this process until the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release the folder."""
        if self._lock is not None:
            self._lock.close()

    def of(self, strategy: str) -> Path:
        """The folder for the files of a strategy: a subfolder if there are several strategies."""
        return self.path if len(self.record.request.strategies) == 1 else self.path / strategy

    def enter(self, phase: Phase | None, strategy: str | None = None) -> None:
        """Count time for a phase from now on, of one strategy or of the whole run; None counts no time."""
        if (phase, strategy) != (self._phase, self._strategy):
            self._settle()
            self._phase, self._strategy = phase, strategy

    def keep(self, labels: LabelPlan) -> None:
        """Keep the label plan in the record, and its new labels in a file for the user."""
        known, self.record.labels = self.record.labels, labels
        if known != labels:
            self.save()
        missing = not (self.path / PLAN).exists()
        if self._ranks.leader and (missing or known is None or known.outputs != labels.outputs):
            self.write_plan()

    def write_plan(self) -> None:
        """Write the label plan as an editable file."""
        if self.record.labels is not None:
            write_text(self.path / PLAN, self.record.labels.to_yaml())

    def tick(self) -> None:
        """Write the record if the last write was long enough ago."""
        if time.perf_counter() > self._saved + PERIOD:
            self.save()

    def save(self) -> None:
        """Write the record now."""
        self._settle()
        self._write()
        self._saved = time.perf_counter()

    def seal(self) -> None:
        """Write the label plan, and the record with the checksums of all other files."""
        self.write_plan()
        self.record.files = {name: file_digest(self.path / name) for name in sorted(self._names())}
        self._write()  # no more time is counted: the result has the same seconds

    def changed(self) -> list[str]:
        """The files that are missing or were changed since :meth:`seal`."""
        names = self._names()
        return [
            name
            for name, digest in self.record.files.items()
            if name not in names or file_digest(self.path / name) != digest
        ]

    def _names(self) -> set[str]:
        """The paths of all files of the run in its folder, except for the record and those of loggers."""
        paths = (Path(place, name) for place, _, names in os.walk(self.path) for name in names if name[0] != ".")
        found = {path.relative_to(self.path) for path in paths if path.is_file()}
        return {path.as_posix() for path in found if path.parts[0] not in (RECORD, LOG)}

    def _write(self) -> None:
        if self._ranks.leader:
            write_record(self.path / RECORD, self.record)

    def _settle(self) -> None:
        now = time.perf_counter()
        if self._phase is not None:
            passed = Seconds(**{self._phase: now - self._since})
            if self._strategy is None:
                self.record.shared += passed
            else:
                self.record.strategies[self._strategy].seconds += passed
        self._since = now


def _require_same(begun: Request, asked: Request, path: Path) -> None:
    for field in attrs.fields(Request):
        name, before, now = field.name, getattr(begun, field.name), getattr(asked, field.name)
        if before == now:
            continue
        if name == "strategies" and set(before) == set(now):
            name = next(f"strategy {name!r}" for name in before if before[name] != now[name])
            before, now = "as it was then", "another one under this name"
        elif name == "strategies":
            before, now = ", ".join(before), ", ".join(now)
        raise CheckpointError(
            expected=f"the {name} that the run in {path} was started with: {before}",
            got=str(now),
            remedy="resume it with the same arguments, or start another run in another folder",
        )
