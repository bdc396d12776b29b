"""Asking a run to stop."""

from __future__ import annotations

import queue
from contextlib import suppress


class Stop:
    """Asks a run to stop cleanly; may be asked from another thread or in a signal handler.

    >>> stop = Stop()
    >>> stop.ask()
    >>> stop.asked
    True
    """

    def __init__(self) -> None:
        self._asked = False
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()  # unlike an Event, it is safe in a signal handler

    @property
    def asked(self) -> bool:
        """Whether the run shall stop."""
        return self._asked

    def ask(self) -> None:
        """Stop as soon as nothing is lost by it."""
        self._asked = True
        self._wake.put(None)

    def wait(self, seconds: float) -> None:
        """Wait so long, or until it is asked; for one thread."""
        if not self._asked:
            with suppress(queue.Empty):
                self._wake.get(timeout=seconds)
