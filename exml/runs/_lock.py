"""A folder is worked in by one process at a time."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from exml.core.errors import CheckpointError

if os.name == "posix":
    import fcntl
else:
    fcntl = None


def require_free(path: Path, record: str, what: str) -> None:
    """Refuse a folder that holds more than a process leaves that was killed before it wrote what it would do.

    Args:
        path: of the folder.
        record: name of the file that every such folder has.
        what: a folder with that file is.

    Raises:
        CheckpointError: there is something.
    """
    if not path.exists():
        return
    names = [child.name for child in path.iterdir()] if path.is_dir() else [""]
    if not all(name.startswith((".lock", f".{record}.")) for name in names):
        begun = record in names
        raise CheckpointError(
            expected=f"a new or empty folder, not {path}",
            got=f"a {what}" if begun else "something else",
            remedy=f"{f'go on with that {what} by resuming it, or ' if begun else ''}choose another folder",
        )


def lock(path: Path, on_wait: Callable[[], None] | None) -> IO[bytes]:
    """Hold the folder until the file is closed, which the end of the process does too, whatever ends it.

    Args:
        path: of the folder; made if need be.
        on_wait: called before another process is waited for; None refuses instead.

    Raises:
        CheckpointError: the folder cannot be written, or another process has it and is not to be waited for.
    """
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
