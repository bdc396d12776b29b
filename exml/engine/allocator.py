"""Memory that is freed and soon wanted again need not go back to the operating system in between."""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_THRESHOLDS = (1 << 30, 1 << 25)
"""Bytes; older versions of glibc take no more than the second."""


def keep_freed_memory() -> bool:
    """Let the C library of Linux keep freed memory for the next step of a hot loop; for the whole process, for good.

    Activations on a CPU are allocated and freed anew in every step. By default glibc hands large blocks back to the
    operating system, which clears every page before it gives them out again: in the loops of this package that takes
    longer than the arithmetic of a ReLU. The command ``exml`` calls this; in a program of your own it is for you to
    decide. The process then holds on to the most memory that it ever needed.

    Returns:
        Whether it has an effect: False elsewhere than with glibc.

    >>> keep_freed_memory() in (True, False)
    True
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    kept = any(mallopt(_M_MMAP_THRESHOLD, threshold) for threshold in _THRESHOLDS)
    return bool(mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)) and kept
