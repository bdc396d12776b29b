"""One thing is read in the background while the one before is in use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


def ahead(reads: Iterator[Callable[[], T]], *, daemon: bool = False) -> Generator[T]:
    """What each item of an iterator makes when it is called; the next item is taken in the background meanwhile.

    Items are taken in another thread, one ahead and no more, and called in the caller's. So the iterator does the slow
    part, and what must not happen beside other work (a random number from a global generator) is in the call. What an
    iterator raises is raised at the turn of the item that it should have given. Each item has a thread of its own,
    which ends with it: nothing waits in the background for an iteration that was abandoned.

    Args:
        reads: the iterator; after the first item, used by one thread at a time.
        daemon: whether the end of the program shall not wait for an item on its way, which may never come.
    """
    coming = _Coming(reads, daemon)
    while True:
        try:
            make = coming.take()
        except StopIteration:
            return
        made = [make()]
        del make  # with what was read, before more is
        coming.start()
        yield made.pop()  # popped, so that nobody but the caller has it while it is in use


class _Coming(Generic[T]):
    """The next item of an iterator, on its way in a thread or not yet asked for."""

    def __init__(self, reads: Iterator[Callable[[], T]], daemon: bool) -> None:
        self._reads, self._daemon = reads, daemon
        self._thread: threading.Thread | None = None
        self._item: Callable[[], T] | None = None
        self._error: BaseException | None = None

    def start(self) -> None:
        """Begin to take the next item."""
        self._thread = threading.Thread(target=self._take, name="exml-read-ahead", daemon=self._daemon)
        self._thread.start()

    def take(self) -> Callable[[], T]:
        """The next item, when it is there; raises what the iterator raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._item is None and self._error is None:  # the first one, or a process that was forked from the thread's
            self._take()
        item, error = self._item, self._error
        self._item = self._error = None
        try:
            if item is None:
                assert error is not None
                raise error
            return item
        finally:
            del item, error  # a traceback that held itself would keep what was read

    def _take(self) -> None:
        try:
            self._item = next(self._reads)
        except BaseException as error:  # raised at its turn
            self._error = error
