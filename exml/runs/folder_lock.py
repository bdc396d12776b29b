"""Folders in which one process works at a time."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from exml.core.errors import CheckpointError
from exml.core.files import open_to_write, remove_partial

if os.name == "posix":
    import fcntl
else:
    fcntl = None


def require_free(path: Path, record: str, what: str) -> None:
    """Refuse a folder that holds anything but the leftovers of a process that was killed before it wrote its record.

    Args:
        path: path of the folder.
        record: name of the file that marks such a folder.
        what: what a folder with that file is called.

    Raises:
        CheckpointError: the folder holds something.
    """
    try:
        names = [child.name for child in path.iterdir()]
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        expected, remedy = f"a new or empty folder at {path}", "choose another folder"
        raise CheckpointError(expected=expected, got=str(error), remedy=remedy) from error
    if not all(name.startswith((".lock", f".{record}.")) for name in names):
        begun = record in names
        raise CheckpointError(
            expected=f"a new or empty folder at {path}",
            got=f"a folder with a {what}" if begun else "a folder with other files",
            remedy=f"{f'resume that {what}, or ' if begun else ''}choose another folder",
        )


def lock(path: Path, on_wait: Callable[[], None] | None) -> IO[bytes]:
    """Hold a folder until the file is closed, or the process ends; removes the partial files of killed processes.

    Args:
        path: path of the folder; created if it is missing.
        on_wait: called before waiting for another process; None refuses to wait.

    Raises:
        CheckpointError: the folder cannot be written, or another process holds it and ``on_wait`` is None.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = open_to_write(path / ".lock")
    except OSError as error:
        raise CheckpointError(
            expected=f"to write into {path}", got=str(error), remedy="choose a folder that can be written"
        ) from error
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if on_wait is None:
                file.close()
                raise CheckpointError(
                    expected=f"a folder that no other process uses, not {path}",
                    got="another process that is starting a run there",
                    remedy="choose another folder",
                ) from None
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            pass
    remove_partial(path.rglob(".*"))
    return file
