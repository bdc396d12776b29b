"""The start and the end of a process as one rank of a distributed run."""

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
from exml.distributed._heartbeat import Heartbeat
from exml.distributed.process_group import ProcessGroup

TIMEOUT = 25.0
"""Seconds without a heartbeat after which a rank counts as dead."""


@contextmanager
def join(*, timeout: float = TIMEOUT) -> Generator[Ranks]:
    """Join the ranks started by ``torchrun``; a process without a launcher is :data:`ALONE`.

    Reads ``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR`` and ``MASTER_PORT``. After a rank dies, hangs or raises, the others
    raise an :class:`~exml.core.errors.RankError` within ``timeout`` plus 10 seconds or, if they are blocked, are
    terminated. One rank reports the reason; the errors of the others are marked ``reported``.

    Args:
        timeout: seconds, > 0; increase it if a rank may fall behind by more, for example while it writes a checkpoint.

    Raises:
        RankError: the other ranks cannot be reached.

    >>> from exml.distributed import join
    >>> with join() as ranks:
    ...     ranks.rank, ranks.size
    (0, 1)
    """
    if not timeout > 0:
        raise SettingError(expected="timeout > 0 seconds", got=str(timeout), remedy="choose a positive number")
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    store, heartbeat = _connect(timeout)
    try:
        yield ProcessGroup(store, timeout)
    except BaseException as error:
        first = heartbeat.announce(str(error) or type(error).__name__)
        heartbeat.leave(failed=True)
        if not first:
            got, remedy = "an earlier failure of another rank", "look at its error"
            raise RankError(expected="all ranks to continue", got=got, remedy=remedy, reported=True) from error
        raise
    heartbeat.leave(failed=False)
    dist.destroy_process_group()


def _connect(timeout: float) -> tuple[Store, Heartbeat]:
    limit = timedelta(seconds=timeout)
    try:
        found: Any = next(iter(rendezvous("env://", timeout=limit)))
        store, rank, size = found
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=PrefixStore("group", store), rank=rank, world_size=size, timeout=limit)
        # A separate connection, so that the heartbeat never waits for the main thread.
        heartbeat = Heartbeat(PrefixStore("heartbeat", store.clone()), rank, size, timeout)
        heartbeat.start()
    except (RuntimeError, ValueError) as error:
        expected = f"{os.environ['WORLD_SIZE']} ranks that reach each other"
        remedy = "start all of them with torchrun, and check the network between them"
        raise RankError(expected=expected, got=str(error).strip().splitlines()[0], remedy=remedy) from error
    return PrefixStore("meetings", store), heartbeat


def local_device(device: torch.device, ranks: Ranks) -> torch.device:
    """The GPU of this rank on its machine (``LOCAL_RANK``), if ``device`` is "cuda" without an index.

    >>> import torch
    >>> from exml.distributed import ALONE, local_device
    >>> local_device(torch.device("cpu"), ALONE)
    device(type='cpu')
    """
    if ranks.alone or str(device) != "cuda":
        return device
    own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", ranks.rank)))
    torch.cuda.set_device(own)
    return own
