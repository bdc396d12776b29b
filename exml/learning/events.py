"""Events: what a learner, a run or a sweep reports while it works, for progress bars, metrics and logs."""

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


@attrs.frozen
class JobsStarted:
    """Several jobs begin: the runs of a sweep, or the experts of a zoo.

    Args:
        names: of the jobs to do, in the order in which they are begun.
        total: of all jobs, including those that are already done.
    """

    names: tuple[str, ...]
    total: int


@attrs.frozen
class JobProgress:
    """A job reported its progress.

    Args:
        name: of the job.
        done: steps made.
        total: steps to make.
    """

    name: str
    done: int
    total: int


@attrs.frozen
class JobEnded:
    """A job finished or failed; the others go on.

    Args:
        name: of the job.
        summary: its outcome in a few words, such as ``"stream accuracy 81.2 %"``.
        error: why it failed, in one line; None if it did not.
    """

    name: str
    summary: str = ""
    error: str | None = None


Event: TypeAlias = (
    ExperienceStarted
    | GenerationProgress
    | BufferUpdated
    | DistillationProgress
    | CheckpointWritten
    | ExperienceFinished
    | WaitingForProcess
    | ExpertsProgress
    | StrategyStarted
    | WaitingForExpert
    | ExpertRefused
    | StudentEvaluated
    | BaselinesStarted
    | BaselineEvaluated
    | JobsStarted
    | JobProgress
    | JobEnded
)
"""Every event: those of a learner, of a run around it, and of many runs."""


@runtime_checkable
class Observer(Protocol):
    """A callback for events; match on the class of the event.

    >>> def log(event: Event, /) -> None:
    ...     match event:
    ...         case ExperienceFinished(experience=i):
    ...             print(f"experience {i} is finished")
    ...         case _:
    ...             pass
    """

    def __call__(self, event: Event, /) -> None:
        """Called in order, in the thread that emits the event; an exception ends the run."""
        ...
