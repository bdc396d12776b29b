"""The folder of a run, in which one process, or the ranks of one run, work at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO

import attrs

from exml.core.errors import CheckpointError
from exml.core.files import write_json
from exml.core.ranks import Ranks
from exml.runs.folder_lock import lock, require_free
from exml.runs.record import Progress, Record, Request, read_record, require_same
from exml.runs.result import Environment

RECORD = "run.json"
"""The record, in the folder of every run."""


def begun(path: Path, *, resume: bool) -> Record | None:
    """The record of the run to resume; None for a new run, whose folder must be new or empty.

    Raises:
        CheckpointError: the folder holds something, or there is nothing to resume.
    """
    if not resume:
        require_free(path, RECORD, "run")
        return None
    if not (path / RECORD).exists():
        raise CheckpointError(
            expected=f"a run in {path}", got="none", remedy="check the path, or start the run without resuming"
        )
    return read_record(path / RECORD)


class RunFolder:
    """Opens the folder of a run and holds it for this process.

    A process that resumes a run waits for another one that still works on it: a killed ``uv run``, for example, leaves
    the process behind that it started.

    Args:
        path: path of the folder.
        request: what is asked for.
        environment: of this process.
        on_wait: called before it waits for another process; None for a new run, which refuses to wait.
        ranks: the leader holds the folder and writes; the others only read.

    Raises:
        CheckpointError: another process starts a run there, or the folder cannot be written.
    """

    def __init__(
        self,
        path: Path,
        request: Request,
        environment: Environment,
        on_wait: Callable[[], None] | None,
        ranks: Ranks,
    ) -> None:
        self.path, self.environment = path, environment
        self.result = path / "result.json"
        self._ranks = ranks
        self._lock: IO[bytes] | None = None
        if ranks.leader:
            if on_wait is not None:
                require_same(read_record(path / RECORD).request, request, path)
            self._lock = lock(path, on_wait)
            self.record = Record(request) if on_wait is None else read_record(path / RECORD)
            if environment not in self.record.environments:
                self.record.environments += (environment,)
            for name in request.strategies:
                self.record.strategies.setdefault(name, Progress())
            self.save()
        ranks.wait()
        if not ranks.leader:
            self.record = read_record(path / RECORD)

    def __enter__(self) -> RunFolder:
        """The folder belongs to this process until the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Release the folder."""
        if self._lock is not None:
            self._lock.close()

    def save(self) -> None:
        """Write the record."""
        if self._ranks.leader:
            write_json(self.path / RECORD, attrs.asdict(self.record))

    def of(self, strategy: str) -> Path:
        """The folder for the files of a strategy: its own if there are several strategies."""
        return self.path if len(self.record.request.strategies) == 1 else self.path / strategy
