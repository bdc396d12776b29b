"""What a learner tells while it works: small typed events, for progress bars, metrics and logs."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

import attrs
from torch import nn

from exml.core.samples import Samples
from exml.core.shapes import Scalar


@attrs.frozen
class ExperienceStarted:
    """An expert was admitted.

    Args:
        experience: i, from 1.
        expert: its name.
        classes: the global ids of the classes that it knows.
        resumed: whether this goes on with an experience that was begun before.
    """

    experience: int
    expert: str
    classes: tuple[int, ...]
    resumed: bool


@attrs.frozen
class GenerationProgress:
    """The generator made some steps.

    Args:
        experience: i, from 1.
        done: steps made.
        total: steps to make; what a step is, is the generator's business.
    """

    experience: int
    done: int
    total: int


@attrs.frozen(eq=False)
class BufferUpdated:
    """The buffer M_i is ready (Algorithm 1, line 5).

    Args:
        experience: i, from 1.
        new: D_i, what the generator made.
        memory: M_i.
    """

    experience: int
    new: Samples
    memory: Samples


@attrs.frozen(eq=False)
class DistillationProgress:
    """The student made one optimizer step.

    Args:
        experience: i, from 1.
        done: steps made.
        total: steps to make.
        loss: of this step, on the device; reading it waits for the device.
    """

    experience: int
    done: int
    total: int
    loss: Scalar


@attrs.frozen
class CheckpointWritten:
    """All that was done so far survives a kill from here on.

    Args:
        experience: experiences that are over.
        path: the file.
    """

    experience: int
    path: Path


@attrs.frozen(eq=False)
class ExperienceFinished:
    """One step of Eq. 4 is over.

    Args:
        experience: i, from 1.
        student: f_i, as it is; copy it to keep it.
        memory: M_i.
    """

    experience: int
    student: nn.Module
    memory: Samples


Event: TypeAlias = (
    ExperienceStarted
    | GenerationProgress
    | BufferUpdated
    | DistillationProgress
    | CheckpointWritten
    | ExperienceFinished
)


@runtime_checkable
class Observer(Protocol):
    """Whoever wants to know; match on the class of the event.

    >>> def log(event: Event, /) -> None:
    ...     match event:
    ...         case ExperienceFinished(experience=i):
    ...             print(f"experience {i} is over")
    ...         case _:
    ...             pass
    """

    def __call__(self, event: Event, /) -> None:
        """Called in the learner's thread, in order; an exception ends the run."""
        ...
