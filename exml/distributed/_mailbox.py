"""Small messages between ranks of one machine, through memory that they share.

Batch norm over ranks exchanges a few hundred numbers twice a layer and step. Through gloo each exchange wakes several
threads, which takes ten times as long as the exchange (``benchmarks/ranks.py`` measures both).
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CAPACITY = 1 << 19
"""Bytes of the longest message."""
_LINE = 64
"""Bytes between two flags, so that no two lie in one line of a cache."""
_SPIN, _YIELD = 2e-4, 5e-2
"""Seconds of waiting at full speed, and until it gets to be longer naps."""


def place() -> Path | None:
    """A new file for a mailbox; None where memory that is written in an order may be seen in another."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return None
    folder = Path("/dev/shm")
    return (folder if folder.is_dir() else Path(tempfile.gettempdir())) / f"exml-{uuid.uuid4().hex}"


class Mailbox:
    """Two pages of one slot for each rank, and a flag for each: the number of messages that it has sent.

    A rank fills its slot of a page, raises its flag, and waits for the flags of the others. It uses a page again two
    messages later; by then every other rank has sent the next one, so it has read this one.

    Args:
        path: of the file; the leader makes it, the others find it. It can be removed as soon as all have opened it.
        rank: this one.
        size: how many ranks there are.
        create: make the file.
        timeout: seconds to wait for another rank.
    """

    def __init__(self, path: Path, rank: int, size: int, *, create: bool, timeout: float) -> None:
        self._rank, self._size, self._timeout = rank, size, timeout
        total = size * _LINE + 2 * size * CAPACITY
        if create:
            with path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, total)  # all at once: a full disk is an error now, no crash later
        memory = torch.from_file(str(path), shared=True, size=total, dtype=torch.uint8)
        flags, pages = memory[: size * _LINE], memory[size * _LINE :]
        # A view that Python reads and writes in one machine instruction each.
        array: Any = flags.numpy()
        self._flags = memoryview(array).cast("q")[:: _LINE // 8]
        self._pages = pages.view(2, size, CAPACITY)
        self._sent = 0

    def fits(self, values: Tensor) -> bool:
        """Whether a message can be sent this way."""
        return values.device.type == "cpu" and values.numel() * values.element_size() <= CAPACITY

    def gather(self, values: Tensor) -> Tensor:
        """``(size, *shape)``, a contiguous message of every rank.

        Raises:
            RuntimeError: a rank has sent nothing for too long.
        """
        self._sent += 1
        length = values.numel() * values.element_size()
        page = self._pages[self._sent % 2]
        page[self._rank, :length] = values.reshape(-1).view(torch.uint8)
        self._flags[self._rank] = self._sent
        self._wait()
        return page[:, :length].contiguous().view(values.dtype).view(self._size, *values.shape)

    def _wait(self) -> None:
        flags, sent = self._flags, self._sent
        began = time.perf_counter()
        for rank in range(self._size):
            while flags[rank] < sent:
                waited = time.perf_counter() - began
                if waited > self._timeout:
                    raise RuntimeError(f"rank {rank} has not answered for {self._timeout:.0f} s")
                if waited > _SPIN:
                    time.sleep(0 if waited < _YIELD else 1e-3)  # lets the other threads of this process work, too
