"""The folder of a run, in which no two processes work at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO

import attrs

from exml._files import write_json
from exml.errors import CheckpointError
from exml.experiment._record import Progress, Record, Request, read_record, require_same
from exml.report import Environment

if os.name == "posix":
    import fcntl
else:
    fcntl = None


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
    ) -> None:
        self.path = path
        self.result = path / "result.json"
        self._file = path / "run.json"
        exists = self._file.exists()
        if not resume and not _is_free(path):
            raise CheckpointError(
                expected=f"a new or empty folder, not {path}",
                got="a run" if exists else "something else",
                remedy=f"{'go on with that run by resuming it, or ' if exists else ''}choose another folder",
            )
        if resume and not exists:
            raise CheckpointError(
                expected=f"a run in {path}", got="none", remedy="check the path, or begin the run without resuming"
            )
        if resume:
            require_same(read_record(self._file).request, request, path)
        self._lock = _lock(path, on_wait if resume else None)
        self.record = read_record(self._file) if resume else Record(request, ())
        if environment not in self.record.environments:
            self.record.environments += (environment,)
        for name in request.strategies:
            self.record.strategies.setdefault(name, Progress())
        self.save()
        for part in path.rglob(".*.part"):  # what a killed process left half-written
            part.unlink(missing_ok=True)

    def __enter__(self) -> RunFolder:
        """The folder is this process's until the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Let go of it."""
        self._lock.close()

    def save(self) -> None:
        """Write the record."""
        write_json(self._file, attrs.asdict(self.record))

    def of(self, strategy: str) -> Path:
        """Where a strategy's own files go: into a folder of its own if there are several."""
        return self.path if len(self.record.request.strategies) == 1 else self.path / strategy


def _is_free(path: Path) -> bool:
    """Whether there is nothing but what a process leaves that was killed before it wrote a record."""
    if not path.exists():
        return True
    leftovers = (".lock", ".run.json.")
    return path.is_dir() and all(child.name.startswith(leftovers) for child in path.iterdir())


def _lock(path: Path, on_wait: Callable[[], None] | None) -> IO[bytes]:
    """Hold the folder until the file is closed, which the end of the process does too, whatever ends it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = (path / ".lock").open("wb")
    except OSError as error:
        raise CheckpointError(
            expected=f"to write into {path}", got=str(error), remedy="choose a folder that can be written"
        ) from error
    if fcntl is None:
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if on_wait is None:
            file.close()
            raise CheckpointError(
                expected=f"a folder of its own, not {path}",
                got="another process that is beginning a run there",
                remedy="choose another folder",
            ) from None
        on_wait()
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:  # a file system that has no locks
        pass
    return file
