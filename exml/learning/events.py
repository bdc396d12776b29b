"""Events: what a learner, a run, a sweep or a zoo reports while it works, for displays, metrics and logs."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

import attrs
from torch import nn

from exml.core.samples import Samples
from exml.core.shapes import Scalar


@attrs.frozen
class ExperienceStarted:
    """The learner accepted an expert.

    Args:
        experience: i, from 1.
        expert: name of the expert.
        classes: global ids of the classes that the expert knows.
        resumed: whether this continues an experience that an earlier process started.
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
        total: steps to make, in the generator's own unit.
        images: images to generate in this experience.
    """

    experience: int
    done: int
    total: int
    images: int


@attrs.frozen(eq=False)
class BufferUpdated:
    """The buffer M_i is ready (Algorithm 1, line 5).

    Args:
        experience: i, from 1.
        new: D_i, the new samples from the generator.
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
        loss: loss of this step, on the device; reading it synchronizes the device.
        images: images in this step.
    """

    experience: int
    done: int
    total: int
    loss: Scalar
    images: int


@attrs.frozen
class CheckpointWritten:
    """Everything up to here survives a kill.

    Args:
        experience: number of finished experiences.
        path: the file.
    """

    experience: int
    path: Path


@attrs.frozen(eq=False)
class ExperienceFinished:
    """One step of Eq. 4 is complete.

    Args:
        experience: i, from 1.
        student: f_i itself; copy it to keep it.
        memory: M_i.
    """

    experience: int
    student: nn.Module
    memory: Samples


@attrs.frozen
class WaitingForProcess:
    """Another process works in the same folder; this one waits until it has finished.

    Args:
        path: folder of a run, or of experts.
    """

    path: Path


@attrs.frozen
class ExpertsProgress:
    """The experts of a scenario are being trained.

    Args:
        done: finished epochs, of all experts.
        total: epochs of all experts.
    """

    done: int
    total: int


@attrs.frozen
class StrategyStarted:
    """A run turns to a strategy; the learner's events that follow belong to it.

    Args:
        name: name of the strategy in this run.
        experiences: length of the stream, including the experts learned before; None if it is unknown.
    """

    name: str
    experiences: int | None


@attrs.frozen
class WaitingForExpert:
    """The next expert of a stream is being read, or has not arrived."""


@attrs.frozen
class ExpertRefused:
    """The student cannot learn from an expert of a stream; the run continues without it.

    Args:
        file: name of its two files, without the suffix.
        reason: what is wrong, and the remedy.
    """

    file: str
    reason: str


@attrs.frozen
class StudentEvaluated:
    """A student was evaluated on the test images.

    Args:
        name: name of its strategy.
        experience: the last experience that it learned from.
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
        total: number of baselines.
    """

    total: int


@attrs.frozen
class BaselineEvaluated:
    """A baseline was evaluated, or does not apply.

    Args:
        name: name of the baseline.
    """

    name: str


@attrs.frozen
class JobsStarted:
    """Several jobs start: the runs of a sweep, or the experts of a zoo.

    Args:
        names: jobs to do, in the order in which they start.
        total: number of all jobs, including those that are already done.
    """

    names: tuple[str, ...]
    total: int


@attrs.frozen
class JobProgress:
    """A job reported its progress.

    Args:
        name: name of the job.
        done: steps made.
        total: steps to make.
    """

    name: str
    done: int
    total: int


@attrs.frozen
class JobEnded:
    """A job finished or failed; the others continue.

    Args:
        name: name of the job.
        summary: its outcome in a few words, such as ``"stream accuracy 81.2%"``.
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
"""Every event: those of a learner, of the run around it, and of many jobs."""


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
