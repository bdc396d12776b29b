"""Ranks as processes of torch.distributed: gloo between CPUs, NCCL between GPUs."""

from __future__ import annotations

import re
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]

from exml.core.errors import RankError
from exml.core.ranks import Ranks
from exml.distributed._mailbox import Mailbox, place

_PERIOD = 0.05  # seconds between checks of the store


@contextmanager
def _translated() -> Generator[None]:
    """Raise errors of the communication library as a RankError."""
    try:
        yield
    except RuntimeError as error:  # of which torch's DistError is one
        if isinstance(error, torch.OutOfMemoryError):
            raise
        first = next(iter(str(error).strip().splitlines()), "").partition(" This is typically")[0].rstrip(".")
        got = re.sub(r"^\[[^]]*\] *", "", first) or type(error).__name__  # without the source location
        remedy = "look at the errors of the other ranks, then resume from the last checkpoint (--resume)"
        raise RankError(expected="a message from every rank", got=got, remedy=remedy) from error


class ProcessGroup(Ranks):
    """The default process group, from :func:`exml.distributed.join`.

    ``timeout`` is that of a collective, in seconds; longer waits use the ``store``.
    """

    def __init__(self, store: Store, timeout: float) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._store = store
        self._meetings = 0
        self._mailbox = self._open_mailbox(timeout)

    @_translated()
    def gather(self, values: Tensor, /) -> Tensor:
        """One all-gather, or shared memory."""
        values = values.detach().contiguous()
        if self._mailbox is not None and self._mailbox.fits(values):
            return self._mailbox.gather(values)
        whole = values.new_empty(self.size, *values.shape)
        dist.all_gather(list(whole.unbind()), values)
        return whole

    @_translated()
    def add(self, values: Tensor, /) -> None:
        """One all-reduce, or shared memory; every rank gets the same bits."""
        if self._mailbox is not None and self._mailbox.fits(values):
            torch.sum(self._mailbox.gather(values.contiguous()), 0, out=values)
        else:
            dist.all_reduce(values)

    @_translated()
    def share(self, values: Tensor, /) -> None:
        """One broadcast."""
        sent = values.contiguous()
        dist.broadcast(sent, 0)
        if sent is not values:
            values.copy_(sent)

    @_translated()
    def wait(self) -> None:
        """Through the store, so that no collective times out."""
        self._meetings += 1
        name = f"meeting/{self._meetings}"
        here = self._store.add(name, 1)
        while here < self.size:
            time.sleep(_PERIOD)
            here = self._store.add(name, 0)

    @_translated()
    def tell(self, text: str, /) -> str:
        """Through the store, so that no collective times out."""
        self._meetings += 1
        name = f"told/{self._meetings}"
        if self.leader:
            self._store.set(name, text)
            return text
        while not self._store.check([name]):
            time.sleep(_PERIOD)
        return self._store.get(name).decode()

    def _open_mailbox(self, timeout: float) -> Mailbox | None:
        """Shared memory, if all ranks are on one machine."""
        path = Path(self.tell(str(place() or "")))
        mailbox = None
        if path.name:
            with suppress(OSError, RuntimeError):
                if self.leader:
                    mailbox = Mailbox(path, self.rank, self.size, create=True, timeout=timeout)
            self.wait()
            with suppress(OSError, RuntimeError):
                if not self.leader and path.exists():
                    mailbox = Mailbox(path, self.rank, self.size, create=False, timeout=timeout)
        opened = torch.tensor([mailbox is not None], dtype=torch.int64)
        with _translated():
            dist.all_reduce(opened)
        if self.leader and path.name:
            path.unlink(missing_ok=True)  # the memory lives as long as a rank has it open
        return mailbox if int(opened) == self.size else None

    def __repr__(self) -> str:
        return f"<rank {self.rank} of {self.size}>"
