"""Several ranks as threads of one process, for tests that start no process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from exml.core.ranks import Ranks

Result = TypeVar("Result")


class _Table:
    """Where the threads exchange values. Between two exchanges they run one at a time."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size)
        self.turn = threading.Lock()
        self.places: list[Any] = [None] * size


class _ThreadRanks(Ranks):
    """The ranks as one thread sees them."""

    def __init__(self, rank: int, table: _Table) -> None:
        self.rank, self.size = rank, len(table.places)
        self._table = table

    def gather(self, values: Tensor, /) -> Tensor:
        return torch.stack(self._exchange(values.detach().clone()))

    def add(self, values: Tensor, /) -> None:
        with torch.no_grad():
            values.copy_(self.gather(values).sum(0))

    def share(self, values: Tensor, /) -> None:
        with torch.no_grad():
            values.copy_(self.gather(values)[0])

    def wait(self) -> None:
        self._exchange(None)

    def tell(self, text: str, /) -> str:
        return self._exchange(text)[0]

    def _exchange(self, value: Any) -> list[Any]:
        self._table.places[self.rank] = value
        self._table.turn.release()
        try:
            self._table.barrier.wait()
            everything = list(self._table.places)
            self._table.barrier.wait()  # until all threads have read
        finally:
            self._table.turn.acquire()
        return everything


def run_on_ranks(work: Callable[[Ranks], Result], size: int) -> list[Result]:
    """Do the same work on several ranks; returns the result of each, or raises the first error.

    The ranks are threads of this process that run one at a time. They share modules and torch's global random numbers,
    so each rank needs its own modules.

    >>> import torch
    >>> from exml.testing import run_on_ranks
    >>> run_on_ranks(lambda ranks: ranks.gather(torch.tensor(ranks.rank)).tolist(), 3)
    [[0, 1, 2], [0, 1, 2], [0, 1, 2]]
    """
    table = _Table(size)
    results: list[Any] = [None] * size
    errors: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            with table.turn:
                results[rank] = work(_ThreadRanks(rank, table))
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
