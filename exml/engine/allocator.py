"""Keep freed memory in the process, for loops that allocate the same sizes again and again."""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_THRESHOLDS = (1 << 30, 1 << 25)  # bytes; older versions of glibc accept at most the second


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory for the next allocation; returns whether it does, which is False without glibc.

    By default glibc returns the activations of each step on a CPU to the operating system, which clears every page
    before it is used again. The command ``exml`` calls this function; your own program may. The process then keeps its
    peak memory.

    >>> from exml.engine import keep_freed_memory
    >>> keep_freed_memory() in (True, False)
    True
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    kept = any(mallopt(_M_MMAP_THRESHOLD, threshold) for threshold in _THRESHOLDS)
    return bool(mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)) and kept
