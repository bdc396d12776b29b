"""A thread that detects ranks that died, hang or failed."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]

_PERIOD = 1.0  # seconds between heartbeats
_GRACE = 2.0  # seconds that a rank has to exit by itself after another one has failed
_FAILED, _LEFT = "failed", "left"


def _end() -> None:
    os._exit(1)  # the main thread may be blocked in a library


def _name(rank: int) -> str:
    return f"beat/{rank}"


class Heartbeat:
    """Sends heartbeats; calls ``end`` after ``timeout`` seconds without one of another rank, or after its failure."""

    def __init__(self, store: Store, rank: int, size: int, timeout: float, end: Callable[[], None] = _end) -> None:
        self._store, self._rank, self._size, self._timeout, self._end = store, rank, size, timeout, end
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="exml-heartbeat", daemon=True)
        self._beat = 0

    def start(self) -> None:
        """Start the thread once all ranks are here."""
        self._store.set(_name(self._rank), "0")
        self._store.wait([_name(rank) for rank in range(self._size)])
        self._thread.start()

    def leave(self, *, failed: bool) -> None:
        """Stop the heartbeats; rank 0, which may hold the store, waits for the others, briefly if a rank has failed."""
        self._stop.set()
        self._thread.join()
        names = [_name(rank) for rank in range(self._size)]
        try:
            self._store.set(_name(self._rank), _LEFT)
            until = time.monotonic() + (_PERIOD + _GRACE + 1 if failed else self._timeout)
            while self._rank == 0 and time.monotonic() < until:
                if all(beat.decode() == _LEFT for beat in self._store.multi_get(names)):
                    break
                time.sleep(0.02)
        except RuntimeError:  # the store is gone already
            pass

    def announce(self, message: str) -> bool:
        """Announce the failure of this rank; False if another rank was first."""
        text = f"rank {self._rank}: {message}"
        try:
            with self._lock:
                return self._store.compare_set(_FAILED, "", text).decode() == text
        except RuntimeError:  # the store is gone, so each rank must report for itself
            return True

    def _run(self) -> None:
        seen = {rank: b"" for rank in range(self._size) if rank != self._rank}
        since = dict.fromkeys(seen, time.monotonic())
        while not self._stop.wait(_PERIOD):
            try:
                fault = self._check(seen, since)
            except RuntimeError:
                fault = "the store of the ranks is gone; rank 0 or its launcher has ended"
            if fault is None:
                continue
            if fault and self.announce(fault):
                remedy = "look for its own error, then resume from the last checkpoint (--resume)"
                print(f"exml: error: {fault}; remedy: {remedy}", file=sys.stderr, flush=True)  # noqa: T201
            if not self._stop.wait(_GRACE):
                with suppress(RuntimeError):
                    self._store.set(_name(self._rank), _LEFT)
                self._end()
            return

    def _check(self, seen: dict[int, bytes], since: dict[int, float]) -> str | None:
        """Send a heartbeat and check the others. Returns the fault, or "" if another rank has announced one."""
        with self._lock:
            self._beat += 1
            self._store.set(_name(self._rank), str(self._beat))
            if self._store.check([_FAILED]):
                return ""
            beats = self._store.multi_get([_name(rank) for rank in seen])
        now = time.monotonic()
        for rank, beat in zip(seen, beats, strict=True):
            if beat != seen[rank] or beat.decode() == _LEFT:
                seen[rank], since[rank] = beat, now
        late = [rank for rank in seen if now > since[rank] + self._timeout]
        if late:
            return f"rank {late[0]} has given no sign of life for {self._timeout:.0f} s"
        return None
