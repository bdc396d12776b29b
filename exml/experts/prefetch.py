"""Reads one item in the background while the item before it is in use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")
MOMENT = 0.2
"""Seconds that an item may take before the wait for it counts as idle."""


def ahead(
    reads: Iterator[Callable[[], T]], *, daemon: bool = False, idle: Callable[[], object] | None = None
) -> Generator[T]:
    """Call each item of an iterator and yield the result, while another thread fetches the next item.

    Put the slow part into the iterator, and anything that must not run in parallel (a draw from a global random
    generator) into the call. An error of the iterator is raised in the turn of its item. Each item has its own thread,
    so an abandoned iteration leaves no thread waiting.

    Args:
        daemon: whether the program may end without waiting for the next item.
        idle: called whenever the next item is not there after a moment.
    """

    def fetch(future: Future[Callable[[], T]]) -> None:
        try:
            future.set_result(next(reads))
        except BaseException as error:  # raised when its turn comes
            future.set_exception(error)
            del future  # the traceback would keep it in a cycle

    # The lists are popped, so that neither this generator nor a traceback keeps an item in memory.
    futures: list[Future[Callable[[], T]]] = [Future()]
    thread = None
    while True:
        if thread is not None:
            thread.join(None if idle is None else MOMENT)
            if idle is not None and thread.is_alive():
                idle()
            thread.join()
        if not futures[0].done():  # the first item, or this process was forked from that of the thread
            fetch(futures[0])
        try:
            made = [futures.pop().result()()]
        except StopIteration:
            return
        futures.append(Future())
        thread = threading.Thread(target=fetch, args=(futures[0],), name="exml-read-ahead", daemon=daemon)
        thread.start()
        yield made.pop()
