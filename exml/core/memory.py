"""Memory that this process can still take, to refuse work that cannot fit before it starts."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from exml.core.errors import SettingError


def available_memory() -> int:
    """Bytes that this process can still take: of the machine, its container, and the limit of its address space.

    >>> from exml.core.memory import available_memory
    >>> available_memory() > 0
    True
    """
    rooms = [sys.maxsize]
    with suppress(OSError, ValueError, StopIteration):  # only Linux tells how much of the page cache it can free
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        rooms.append(1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))))
    with suppress(OSError, ValueError):  # "max" in a container without a limit
        group = Path("/sys/fs/cgroup")
        rooms.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    if os.name == "posix":
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            with suppress(OSError, ValueError):
                pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
                rooms.append(limit - pages * os.sysconf("SC_PAGE_SIZE"))
    return max(min(rooms), 0)


def require_memory(needed: int, what: str, remedy: str, /) -> None:
    """Raise a SettingError if ``needed`` bytes are more than :func:`available_memory`."""
    room = available_memory()
    if needed > room:
        got, mebi = f"{room / 2**20:,.0f} MiB", f"{needed / 2**20:,.0f} MiB"
        raise SettingError(expected=f"{mebi} of memory for {what}", got=got, remedy=remedy)
