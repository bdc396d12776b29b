"""The folder of a run and its record, ``run.json``: the request, and the progress that no checkpoint holds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias, TypeVar

import attrs

from exml.core.errors import CheckpointError
from exml.core.execution import EAGER, Execution
from exml.core.files import write_json
from exml.core.ranks import Ranks
from exml.core.serialization import from_plain
from exml.runs.environment import Environment
from exml.runs.folder_lock import lock, require_free
from exml.runs.forecast import Forecast
from exml.runs.result import Seconds
from exml.runs.student_plan import StudentPlan

T = TypeVar("T")
RECORD = "run.json"
"""Name of the record."""
VERSION = 2
"""Version of the record; a run of another version cannot be resumed."""
PERIOD = 2.0
"""Seconds between two writes of the record."""
Phase: TypeAlias = Literal["experts", "generation", "distillation", "evaluation"]


@attrs.frozen
class Request:
    """What the students depend on, apart from the machine; a resumed run must have the same request.

    A run over a scenario has a scenario and a split; a run over a folder of experts has a student.
    """

    strategies: Mapping[str, Any]
    seed: int
    device: str
    execution: Execution = EAGER
    scenario: str | None = None
    split: Literal["test", "validation"] | None = None
    student: StudentPlan | None = None


@attrs.define
class Progress:
    """The progress of one strategy: the rows of its accuracy matrix, its time, and its forecast, if there is one."""

    accuracy: tuple[tuple[float, ...], ...] = ()
    seconds: Seconds = attrs.field(factory=Seconds)
    forecast: Forecast | None = None


@attrs.define
class Record:
    """The contents of ``run.json``; ``shared`` is the time of the experts and the baselines."""

    request: Request
    environments: tuple[Environment, ...] = ()
    shared: Seconds = attrs.field(factory=Seconds)
    strategies: dict[str, Progress] = attrs.field(factory=dict[str, Progress])
    version: Literal[2] = 2


def read_record(path: Path) -> Record:
    """:func:`read_versioned` for ``run.json``."""
    return read_versioned(path, Record, VERSION, f"a run of version {VERSION} in {path}")


def read_versioned(path: Path, cls: type[T], version: int, expected: str) -> T:
    """Read a JSON file that states its ``version``.

    Raises:
        CheckpointError: it is missing, damaged, or of another version.
    """
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        found = plain.get("version") if isinstance(plain, Mapping) else None
        if found == version:
            return from_plain(plain, cls)
        got = f"version {found}"
    except (OSError, ValueError) as error:
        got = str(error)
    raise CheckpointError(
        expected=expected,
        got=got,
        remedy="resume it with the exml that started it, or start it again in another folder",
    )


def begun(path: Path, *, resume: bool) -> Record | None:
    """The record of the run to resume; None for a new run, whose folder must be new or empty."""
    if not resume:
        require_free(path, RECORD, "run")
        return None
    if not (path / RECORD).exists():
        raise CheckpointError(
            expected=f"a run in {path}", got="none", remedy="check the path, or start the run without resuming"
        )
    return read_record(path / RECORD)


class RunFolder:
    """Opens the folder of a run, holds it for this process, and counts the time of each phase in the record.

    A process that resumes a run calls ``on_wait`` and waits for another one that still works on it: killing ``uv run``,
    for example, leaves the process that it started running. A new run, whose ``on_wait`` is None, refuses to wait. Only
    the leader of the ranks holds the folder and writes.
    """

    def __init__(
        self, path: Path, request: Request, environment: Environment, on_wait: Callable[[], None] | None, ranks: Ranks
    ) -> None:
        self.path, self.environment = path, environment
        self.result = path / "result.json"
        self._ranks = ranks
        self._lock: IO[bytes] | None = None
        if ranks.leader:
            if on_wait is not None:
                _require_same(read_record(path / RECORD).request, request, path)
            self._lock = lock(path, on_wait)
            self.record = Record(request) if on_wait is None else read_record(path / RECORD)
            if environment not in self.record.environments:
                self.record.environments += (environment,)
            for name in request.strategies:
                self.record.strategies.setdefault(name, Progress())
            self._write()
        ranks.wait()
        if not ranks.leader:
            self.record = read_record(path / RECORD)
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

    def tick(self) -> None:
        """Write the record if the last write was long enough ago."""
        if time.perf_counter() > self._saved + PERIOD:
            self.save()

    def save(self) -> None:
        """Write the record now."""
        self._settle()
        self._write()
        self._saved = time.perf_counter()

    def _write(self) -> None:
        if self._ranks.leader:
            write_json(self.path / RECORD, attrs.asdict(self.record))

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
