"""Small messages between the ranks of one machine, through shared memory.

This takes a tenth of the time of gloo for the statistics of batch norm (``benchmarks/ranks.py`` measures both).
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
"""Bytes of the largest message."""
_LINE = 64  # bytes between two flags, so that no two share a cache line
_SPIN, _YIELD = 2e-4, 5e-2  # seconds of busy waiting, and of yielding before longer sleeps


def place() -> Path | None:
    """The path of a new mailbox; None on processors that may reorder writes to memory."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return None
    folder = Path("/dev/shm")
    return (folder if folder.is_dir() else Path(tempfile.gettempdir())) / f"exml-{uuid.uuid4().hex}"


class Mailbox:
    """Two pages with one slot per rank, and one flag per rank: the number of messages that it has sent.

    A rank fills its slot of a page, increments its flag, and waits for the flags of the others. It reuses a page two
    messages later; by then every other rank has sent the next message, so it has read this one. The file can be removed
    once all ranks have opened it.
    """

    def __init__(self, path: Path, rank: int, size: int, *, create: bool, timeout: float) -> None:
        self._rank, self._size, self._timeout = rank, size, timeout
        total = size * _LINE + 2 * size * CAPACITY
        if create:
            with path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, total)  # a full disk is an error now instead of a crash later
        memory = torch.from_file(str(path), shared=True, size=total, dtype=torch.uint8)
        flags, pages = memory[: size * _LINE], memory[size * _LINE :]
        # A view that Python reads and writes atomically.
        array: Any = flags.numpy()
        self._flags = memoryview(array).cast("q")[:: _LINE // 8]
        self._pages = pages.view(2, size, CAPACITY)
        self._sent = 0

    def fits(self, values: Tensor) -> bool:
        """Whether a message is on the CPU and small enough."""
        return values.device.type == "cpu" and values.numel() * values.element_size() <= CAPACITY

    def gather(self, values: Tensor) -> Tensor:
        """``(size, *shape)``, the messages of all ranks; raises RuntimeError after the timeout."""
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
                    raise RuntimeError(f"rank {rank} sent no message for {self._timeout:.0f} s")
                if waited > _SPIN:
                    time.sleep(0 if waited < _YIELD else 1e-3)  # for the other threads of this process
