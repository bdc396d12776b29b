"""Stop: asks a learner or a run to stop cleanly."""

from __future__ import annotations

import queue
from contextlib import suppress


class Stop:
    """Asks a learner or a run to stop cleanly. Call :meth:`ask` from any thread, or from a signal handler.

    >>> from exml.learning import Stop
    >>> stop = Stop()
    >>> stop.ask()
    >>> stop.asked
    True
    """

    def __init__(self) -> None:
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()  # unlike an Event, it is safe in a signal handler
        self.asked = False

    def ask(self) -> None:
        """Ask for the stop; wakes a thread that is in :meth:`wait`."""
        self.asked = True
        self._wake.put(None)

    def wait(self, seconds: float) -> None:
        """Sleep for some seconds or until the stop is asked for; for one thread at a time."""
        if not self.asked:
            with suppress(queue.Empty):
                self._wake.get(timeout=seconds)
