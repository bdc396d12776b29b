"""Several ranks in one process, each a thread: tests of what is shared out over ranks, without starting any process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from exml.core.ranks import Ranks

Result = TypeVar("Result")


class _Table:
    """Where the threads meet, and what they lay down there. Between two meetings they work one after another."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size)
        self.turn = threading.Lock()
        self.places: list[Any] = [None] * size


class ThreadRanks(Ranks):
    """One thread's view of all; made by :func:`run_on_ranks`.

    Args:
        rank: of this thread.
        table: where it meets the others.
    """

    def __init__(self, rank: int, table: _Table) -> None:
        self.rank, self.size = rank, len(table.places)
        self._table = table

    def gather(self, values: Tensor, /) -> Tensor:
        """As the real one."""
        return torch.stack(self._lay_down(values.detach().clone()))

    def add(self, values: Tensor, /) -> None:
        """As the real one."""
        with torch.no_grad():
            values.copy_(self.gather(values).sum(0))

    def share(self, values: Tensor, /) -> None:
        """As the real one."""
        with torch.no_grad():
            values.copy_(self.gather(values)[0])

    def wait(self) -> None:
        """As the real one."""
        self._lay_down(None)

    def tell(self, text: str, /) -> str:
        """As the real one."""
        return self._lay_down(text)[0]

    def _lay_down(self, value: Any) -> list[Any]:
        self._table.places[self.rank] = value
        self._table.turn.release()
        try:
            self._table.barrier.wait()
            everything = list(self._table.places)
            self._table.barrier.wait()  # nobody lays down the next before all have looked
        finally:
            self._table.turn.acquire()
        return everything


def run_on_ranks(work: Callable[[Ranks], Result], size: int) -> list[Result]:
    """Do the same work on several ranks at once; gives what each returned.

    The ranks are threads of this process, of which one works at a time. What changes a module, or torch's global random
    numbers, is seen by all: give every rank modules of its own.

    Args:
        work: called with the ranks, in every thread.
        size: how many.

    Raises:
        BaseException: the first that ``work`` raised; the other ranks are stopped where they next meet.

    >>> run_on_ranks(lambda ranks: ranks.gather(torch.tensor(ranks.rank)).tolist(), 3)
    [[0, 1, 2], [0, 1, 2], [0, 1, 2]]
    """
    table = _Table(size)
    results: list[Any] = [None] * size
    errors: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            with table.turn:
                results[rank] = work(ThreadRanks(rank, table))
        except threading.BrokenBarrierError:  # another rank has failed
            pass
        except BaseException as error:
            errors.append(error)
            table.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results
