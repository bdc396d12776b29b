"""Learning over several processes (ranks), on one machine or many, on :mod:`torch.distributed`."""

from exml.distributed.join import TIMEOUT, join, local_device
from exml.distributed.process_group import ProcessGroup
from exml.distributed.ranks import ALONE, Alone, Ranks, Shard

__all__ = ["ALONE", "TIMEOUT", "Alone", "ProcessGroup", "Ranks", "Shard", "join", "local_device"]
