"""Reads one item in the background while the item before it is in use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


def ahead(reads: Iterator[Callable[[], T]], *, daemon: bool = False) -> Generator[T]:
    """Call each item of an iterator and yield the result; meanwhile, fetch the next item in the background.

    Another thread fetches one item ahead, and the caller's thread calls it. So the slow part belongs into the iterator,
    and anything that must not run in parallel (a draw from a global random generator) belongs into the call. An error
    of the iterator is raised in the turn of its item. Each item has a thread of its own, so an abandoned iteration
    leaves no thread waiting.

    Args:
        reads: the iterator; after the first item, used by one thread at a time.
        daemon: whether the program may end without waiting for the next item, which may never come.
    """
    coming = _Coming(reads, daemon)
    while True:
        try:
            make = coming.take()
        except StopIteration:
            return
        made = [make()]
        del make  # frees what was read before more is read
        coming.start()
        yield made.pop()  # popped, so that only the caller holds it


class _Coming(Generic[T]):
    """The next item of an iterator, on its way in a thread or not requested yet."""

    def __init__(self, reads: Iterator[Callable[[], T]], daemon: bool) -> None:
        self._reads, self._daemon = reads, daemon
        self._thread: threading.Thread | None = None
        self._item: Callable[[], T] | None = None
        self._error: BaseException | None = None

    def start(self) -> None:
        """Fetch the next item in a new thread."""
        self._thread = threading.Thread(target=self._take, name="exml-read-ahead", daemon=self._daemon)
        self._thread.start()

    def take(self) -> Callable[[], T]:
        """Wait for the next item; raises what the iterator raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._item is None and self._error is None:  # the first item, or a process forked meanwhile
            self._take()
        item, error = self._item, self._error
        self._item = self._error = None
        try:
            if item is None:
                assert error is not None
                raise error
            return item
        finally:
            del item, error  # else a traceback that holds itself keeps what was read

    def _take(self) -> None:
        try:
            self._item = next(self._reads)
        except BaseException as error:  # raised in its turn
            self._error = error
