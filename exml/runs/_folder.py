"""The folder of a run, in which no two processes work at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO

import attrs

from exml.core.errors import CheckpointError
from exml.core.files import write_json
from exml.core.ranks import ALONE, Ranks
from exml.runs._lock import lock, require_free
from exml.runs._record import Progress, Record, Request, read_record, require_same
from exml.runs.result import Environment


class RunFolder:
    """Opens the folder of a run, new or to be resumed, and holds it for this process.

    Whoever resumes a run that another process is still at work on waits until that has ended: a killed ``uv run``, for
    one, leaves the process behind that it started.

    Args:
        path: of the folder.
        request: what is asked for.
        environment: of this process.
        resume: go on with what is there, or insist that nothing is.
        on_wait: called before it waits for another process.
        ranks: that work in it together; the leader holds the folder and writes, the others only read.

    Raises:
        CheckpointError: something is there already, or is not there; it is another run; or the folder cannot be
            written.
    """

    def __init__(
        self,
        path: Path,
        request: Request,
        environment: Environment,
        *,
        resume: bool,
        on_wait: Callable[[], None] = lambda: None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.path = path
        self.result = path / "result.json"
        self._file = path / "run.json"
        self._ranks = ranks
        self._lock: IO[bytes] | None = None
        if ranks.leader:
            self._lock = self._open(request, environment, resume, on_wait)
        ranks.wait()
        if not ranks.leader:
            self.record = read_record(self._file)

    def _open(self, request: Request, environment: Environment, resume: bool, on_wait: Callable[[], None]) -> IO[bytes]:
        path = self.path
        if not resume:
            require_free(path, self._file.name, "run")
        elif not self._file.exists():
            raise CheckpointError(
                expected=f"a run in {path}", got="none", remedy="check the path, or begin the run without resuming"
            )
        if resume:
            require_same(read_record(self._file).request, request, path)
        held = lock(path, on_wait if resume else None)
        self.record = read_record(self._file) if resume else Record(request, ())
        if environment not in self.record.environments:
            self.record.environments += (environment,)
        for name in request.strategies:
            self.record.strategies.setdefault(name, Progress())
        self.save()
        for part in path.rglob(".*.part"):  # what a killed process left half-written
            part.unlink(missing_ok=True)
        return held

    def __enter__(self) -> RunFolder:
        """The folder is this process's until the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Let go of it."""
        if self._lock is not None:
            self._lock.close()

    def save(self) -> None:
        """Write the record."""
        if self._ranks.leader:
            write_json(self._file, attrs.asdict(self.record))

    def of(self, strategy: str) -> Path:
        """Where a strategy's own files go: into a folder of its own if there are several."""
        return self.path if len(self.record.request.strategies) == 1 else self.path / strategy
