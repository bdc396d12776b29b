"""Distributed training: several processes (ranks) on one or more machines, on :mod:`torch.distributed`.

It imports only :mod:`exml.core`.
"""

from exml.core.ranks import ALONE, Alone, Ranks, Shard
from exml.distributed.join import TIMEOUT, join, local_device
from exml.distributed.process_group import ProcessGroup

__all__ = ["ALONE", "TIMEOUT", "Alone", "ProcessGroup", "Ranks", "Shard", "join", "local_device"]
