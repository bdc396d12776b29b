"""What a run tells beside its learners: typed events, like those of :mod:`exml.learning.events`."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

import attrs

from exml.learning import events


@attrs.frozen
class WaitingForProcess:
    """The run to be resumed is not at rest, or another trains the experts; this process goes on after the other one.

    Args:
        path: folder of the run, or of the experts.
    """

    path: Path


@attrs.frozen
class ExpertsProgress:
    """The experts of a run are being trained.

    Args:
        done: epochs that are over, of all experts.
        total: epochs of all experts.
    """

    done: int
    total: int


@attrs.frozen
class StrategyStarted:
    """A strategy's turn has come; the learner's events that follow are its own.

    Args:
        name: of the strategy in this run.
        experiences: how many experts it will learn from, also before; None where nobody knows.
    """

    name: str
    experiences: int | None


@attrs.frozen
class WaitingForExpert:
    """The next expert of a stream is on its way, or has not arrived."""


@attrs.frozen
class ExpertRefused:
    """An expert of a stream cannot be learned from; the run goes on without it.

    Args:
        file: name of its two files, without their endings.
        reason: what is wrong, and the remedy.
    """

    file: str
    reason: str


@attrs.frozen
class StudentEvaluated:
    """A student was asked about the test images.

    Args:
        name: of its strategy.
        experience: i, after which it was.
        accuracy: row i of the accuracy matrix.
        stream_accuracy: over the experiences 1 to i (Eq. 2).
    """

    name: str
    experience: int
    accuracy: tuple[float, ...]
    stream_accuracy: float


@attrs.frozen
class BaselinesStarted:
    """The students are ready; the baselines are being evaluated.

    Args:
        total: how many there are.
    """

    total: int


@attrs.frozen
class BaselineEvaluated:
    """A baseline was evaluated, or turned out not to apply.

    Args:
        name: of the baseline.
    """

    name: str


RunEvent: TypeAlias = (
    events.Event
    | WaitingForProcess
    | ExpertsProgress
    | StrategyStarted
    | WaitingForExpert
    | ExpertRefused
    | StudentEvaluated
    | BaselinesStarted
    | BaselineEvaluated
)
"""What a run tells: a learner's events and those around them."""


@runtime_checkable
class RunObserver(Protocol):
    """Whoever wants to know; match on the class of the event, as with :class:`exml.learning.events.Observer`."""

    def __call__(self, event: RunEvent, /) -> None:
        """Called in order; an exception ends the run."""
        ...
