"""The watch: a thread in every rank that notices when another rank has died, hangs as a whole, or has failed."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]

_PERIOD = 1.0
"""Seconds between two heartbeats."""
_GRACE = 2.0
"""Seconds that a rank has to end by itself after another one has failed, before it is ended."""
_FAILED = "failed"
_LEFT = "left"


def _say(message: str) -> None:
    sys.stderr.write(f"exml: error: {message}\n")
    sys.stderr.flush()


def _end() -> None:
    os._exit(1)  # the main thread may be waiting for ever, deep in a library


class Watch:
    """Beats for this rank and listens to the others, through a store of its own.

    Args:
        store: that all ranks share; this thread's alone.
        rank: this one.
        size: how many there are.
        timeout: seconds without a heartbeat after which a rank counts as dead.
        end: ends this process at once.
    """

    def __init__(self, store: Store, rank: int, size: int, timeout: float, end: Callable[[], None] = _end) -> None:
        self._store, self._rank, self._size, self._timeout, self._end = store, rank, size, timeout, end
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="exml-watch", daemon=True)
        self._beat = 0

    def start(self) -> None:
        """Begin; every rank has come this far when it returns."""
        self._store.set(self._name(self._rank), "0")
        self._store.wait([self._name(rank) for rank in range(self._size)])
        self._thread.start()

    def leave(self, *, failed: bool) -> None:
        """The others do not miss this rank any more. The keeper of the store leaves last, so that all hear the news.

        Args:
            failed: some will never come; they are not waited for as long as in peace.
        """
        self._stop.set()
        self._thread.join()
        names = [self._name(rank) for rank in range(self._size)]
        try:
            self._store.set(self._name(self._rank), _LEFT)
            until = time.monotonic() + (_PERIOD + _GRACE + 1 if failed else self._timeout)
            while self._rank == 0 and time.monotonic() < until:
                if all(beat.decode() == _LEFT for beat in self._store.multi_get(names)):
                    break
                time.sleep(0.02)
        except RuntimeError:  # its keeper is gone already
            pass

    def announce(self, message: str) -> bool:
        """Tell all ranks that this one has failed; False if another rank was first, or nobody can be told."""
        text = f"rank {self._rank}: {message}"
        try:
            with self._lock:
                return self._store.compare_set(_FAILED, "", text).decode() == text
        except RuntimeError:  # the store is gone with its keeper, so that somebody has to speak up
            return True

    def _watch(self) -> None:
        seen = {rank: b"" for rank in range(self._size) if rank != self._rank}
        since = dict.fromkeys(seen, time.monotonic())
        while not self._stop.wait(_PERIOD):
            try:
                fault = self._look(seen, since)
            except RuntimeError:
                fault = "the store through which the ranks meet is gone; rank 0 or its launcher has ended"
            if fault is None:
                continue
            if fault and self.announce(fault):
                _say(fault + "; remedy: look for its own error, then go on from the last checkpoint (--resume)")
            if not self._stop.wait(_GRACE):
                with suppress(RuntimeError):
                    self._store.set(self._name(self._rank), _LEFT)
                self._end()
            return

    def _look(self, seen: dict[int, bytes], since: dict[int, float]) -> str | None:
        """Beat once, and look at the others: None, all is well; "", one has failed and said so; or what is wrong."""
        with self._lock:
            self._beat += 1
            self._store.set(self._name(self._rank), str(self._beat))
            if self._store.check([_FAILED]):
                return ""
            beats = self._store.multi_get([self._name(rank) for rank in seen])
        now = time.monotonic()
        for rank, beat in zip(seen, beats, strict=True):
            if beat != seen[rank] or beat.decode() == _LEFT:
                seen[rank], since[rank] = beat, now
        late = [rank for rank in seen if now > since[rank] + self._timeout]
        if late:
            return f"rank {late[0]} has given no sign of life for {self._timeout:.0f} s"
        return None

    @staticmethod
    def _name(rank: int) -> str:
        return f"beat/{rank}"
