"""Learning over several processes (ranks), on one machine or many, on :mod:`torch.distributed`."""

from exml.core.ranks import ALONE, Alone, Ranks, Shard
from exml.distributed.join import TIMEOUT, join, local_device
from exml.distributed.process_group import ProcessGroup

__all__ = ["ALONE", "TIMEOUT", "Alone", "ProcessGroup", "Ranks", "Shard", "join", "local_device"]
