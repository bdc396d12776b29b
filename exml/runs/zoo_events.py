"""What the training of a zoo tells: typed events."""

from __future__ import annotations

from typing import Protocol, TypeAlias, runtime_checkable

import attrs

from exml.core.errors import ExmlError
from exml.learning.events import WaitingForProcess


@attrs.frozen
class ZooStarted:
    """The experts of a zoo are being trained.

    Args:
        experts: how many there will be.
        epochs: of all of them.
    """

    experts: int
    epochs: int


@attrs.frozen
class ExpertTrained:
    """How far one expert of a zoo is.

    Args:
        stream: name of its folder.
        expert: its place in the stream, from 1.
        done: epochs that are over; all of them if it was there already.
        epochs: of this expert.
        over: whether it is saved, or has failed.
        accuracy: on the validation images of its own classes, once it is saved.
        error: why it failed.
    """

    stream: str
    expert: int
    done: int
    epochs: int
    over: bool = False
    accuracy: float | None = None
    error: ExmlError | None = None


ZooEvent: TypeAlias = ZooStarted | ExpertTrained | WaitingForProcess
"""Any of them, and that the folder of a stream is another process's at the moment."""


@runtime_checkable
class ZooObserver(Protocol):
    """Whoever wants to know."""

    def __call__(self, event: ZooEvent, /) -> None:
        """Called in the process that began the training."""
        ...
