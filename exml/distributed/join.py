"""How a process becomes one rank of a distributed run."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, rendezvous  # pyright: ignore[reportPrivateImportUsage]

from exml.core.errors import RankError, SettingError
from exml.core.ranks import ALONE, Ranks
from exml.distributed._heartbeat import Watch
from exml.distributed.process_group import ProcessGroup

TIMEOUT = 25.0
"""Seconds after which a rank that does not answer counts as dead."""


@contextmanager
def join(*, timeout: float = TIMEOUT) -> Generator[Ranks]:
    """Join the ranks that ``torchrun`` started; by itself a process is :data:`ALONE`.

    Read are the variables that every launcher sets: ``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR``, ``MASTER_PORT``.
    A rank that dies, hangs or raises ends all of them within ``timeout`` and 10 seconds (a launcher may take longer to
    clear away a process that was stopped): those that wait for it raise an :class:`~exml.core.errors.RankError` or,
    where they cannot, are ended. One rank says why, on stderr or by its exception; in the others the error is marked
    ``reported``. What they had written before is whole.

    Args:
        timeout: seconds; longer if one rank may be that much slower than another, say in writing a checkpoint.

    Raises:
        SettingError: ``timeout`` is not positive.
        RankError: the other ranks could not be found.

    >>> with join() as ranks:
    ...     ranks.rank, ranks.size
    (0, 1)
    """
    if not timeout > 0:
        raise SettingError(expected="timeout > 0 seconds", got=str(timeout), remedy="leave it out")
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    store, watch = _meet(timeout)
    try:
        yield ProcessGroup(store, timeout)
    except BaseException as error:
        first = watch.announce(str(error) or type(error).__name__)
        watch.leave(failed=True)
        if not first:
            got, remedy = "the failure of another one before this", "look at its error"
            raise RankError(expected="every rank to go on", got=got, remedy=remedy, reported=True) from error
        raise
    watch.leave(failed=False)
    dist.destroy_process_group()


def _meet(timeout: float) -> tuple[Store, Watch]:
    """The store of all ranks, and the watch over them, begun."""
    try:
        found: Any = next(iter(rendezvous("env://", timeout=timedelta(seconds=timeout))))
        store, rank, size = found
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        limit = timedelta(seconds=timeout)
        dist.init_process_group(backend, store=PrefixStore("group", store), rank=rank, world_size=size, timeout=limit)
        # The watch has a connection of its own, so that it never waits for what the main thread waits for.
        watch = Watch(PrefixStore("watch", store.clone()), rank, size, timeout)
        watch.start()
    except (RuntimeError, ValueError) as error:
        raise RankError(
            expected=f"{os.environ['WORLD_SIZE']} ranks that find each other",
            got=str(error).strip().splitlines()[0],
            remedy="start them with torchrun, all at once, and check the network between them",
        ) from error
    return PrefixStore("meetings", store), watch


def local_device(device: torch.device, ranks: Ranks) -> torch.device:
    """This rank's own device on its machine (``LOCAL_RANK``), where a GPU was asked for without saying which.

    >>> local_device(torch.device("cpu"), ALONE)
    device(type='cpu')
    """
    if ranks.alone or str(device) != "cuda":
        return device
    own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", ranks.rank)))
    torch.cuda.set_device(own)
    return own
