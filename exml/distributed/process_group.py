"""Ranks that are processes of torch.distributed: gloo between CPUs, nccl between GPUs."""

from __future__ import annotations

import re
import time
from collections.abc import Generator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]

from exml.distributed.ranks import Ranks
from exml.errors import RankError

_LOOK = 0.05
"""Seconds between two looks at whether the others are there."""


class ProcessGroup(Ranks):
    """The default process group; made by :func:`exml.distributed.join`.

    Args:
        store: of the group, for what may take longer than a collective may.
    """

    def __init__(self, store: Store) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._store = store
        self._meetings = 0

    def gather(self, values: Tensor, /) -> Tensor:
        """By one all-gather."""
        values = values.detach().contiguous()
        whole = values.new_empty(self.size, *values.shape)
        with _translated():
            dist.all_gather(list(whole.unbind()), values)
        return whole

    def add(self, values: Tensor, /) -> None:
        """By one all-reduce; every rank gets the same bits."""
        with _translated():
            dist.all_reduce(values)

    def share(self, values: Tensor, /) -> None:
        """By one broadcast."""
        sent = values.contiguous()
        with _translated():
            dist.broadcast(sent, 0)
        if sent is not values:
            values.copy_(sent)

    def wait(self) -> None:
        """Through the store, so that no collective runs out of time."""
        self._meetings += 1
        name = f"meeting/{self._meetings}"
        with _translated():
            here = self._store.add(name, 1)
            while here < self.size:
                time.sleep(_LOOK)
                here = self._store.add(name, 0)

    def tell(self, text: str, /) -> str:
        """Through the store."""
        self._meetings += 1
        name = f"told/{self._meetings}"
        with _translated():
            if self.leader:
                self._store.set(name, text)
                return text
            while not self._store.check([name]):
                time.sleep(_LOOK)
            return self._store.get(name).decode()

    def __repr__(self) -> str:
        return f"<rank {self.rank} of {self.size}>"


@contextmanager
def _translated() -> Generator[None]:
    """What the communication library says of a rank that is gone or late, as an error of ours."""
    try:
        yield
    except RuntimeError as error:  # of which torch's DistError is one
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise RankError(
            expected="an answer from every rank",
            got=_short(str(error)) or type(error).__name__,
            remedy="look for what the other ranks say, then go on from the last checkpoint (--resume)",
        ) from error


def _short(message: str) -> str:
    """The first line of a message of the library, without the place in its source and its advice."""
    first = next(iter(message.strip().splitlines()), "")
    return re.sub(r"^\[[^]]*\] *", "", first).partition(" This is typically")[0].rstrip(".")
