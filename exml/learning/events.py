"""Events: what a learner, a run, a sweep or a zoo reports while it works, for displays, metrics and logs.

Experiences are numbered from 1; ``done`` counts the finished steps of ``total``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

import attrs
from torch import nn

from exml.core.samples import Samples
from exml.core.shapes import Scalar
from exml.experts.screening import Screening


@attrs.frozen
class ExperienceStarted:
    """The learner accepted an expert; ``resumed`` if an earlier process started the experience."""

    experience: int
    expert: str
    classes: tuple[int, ...]
    resumed: bool


@attrs.frozen
class GenerationProgress:
    """The generator made some steps, in its own unit; ``images`` is the number that it makes in the experience."""

    experience: int
    done: int
    total: int
    images: int


@attrs.frozen(eq=False)
class BufferUpdated:
    """The buffer M_i is ready (Algorithm 1, line 5); ``new`` is D_i, the samples from the generator."""

    experience: int
    new: Samples
    memory: Samples


@attrs.frozen(eq=False)
class DistillationProgress:
    """The student made one optimizer step on a mini-batch; reading ``loss`` synchronizes the device."""

    experience: int
    done: int
    total: int
    loss: Scalar
    images: int


@attrs.frozen
class CheckpointWritten:
    """A checkpoint was written after ``experience`` finished experiences."""

    experience: int
    path: Path


@attrs.frozen(eq=False)
class ExperienceFinished:
    """One step of Eq. 4 is complete. ``student`` is f_i itself: copy it to keep it. ``memory`` is M_i."""

    experience: int
    student: nn.Module
    memory: Samples


@attrs.frozen
class WaitingForProcess:
    """Another process works in this folder of a run, or of experts; this one waits until it has finished."""

    path: Path


@attrs.frozen
class ExpertsProgress:
    """The experts of a scenario are being trained; ``done`` and ``total`` count the epochs of all experts."""

    done: int
    total: int


@attrs.frozen
class StrategyStarted:
    """A run starts or resumes a strategy.

    ``experiences`` is the length of the whole stream, None if unknown. ``settings`` are those of the run and the fields
    of the strategy by their path, such as ``generator.iterations``.
    """

    name: str
    experiences: int | None
    settings: Mapping[str, str | int | float | bool] = attrs.field(factory=dict, eq=False)


@attrs.frozen
class WaitingForExpert:
    """The next expert of a stream is being read, or has not arrived."""


@attrs.frozen
class ReportStarted:
    """The student is compared with its experts."""


@attrs.frozen
class ExpertRefused:
    """The student cannot learn from the expert in these files (without suffix); the run continues without it."""

    file: str
    reason: str


@attrs.frozen
class ExpertScreened:
    """An expert was screened in an experience: its own, or that of a later one that shows it to be suspect."""

    experience: int
    screening: Screening


@attrs.frozen
class StudentEvaluated:
    """A student was evaluated: row i of the accuracy matrix, and the stream accuracy over 1 to i (Eq. 2)."""

    name: str
    experience: int
    accuracy: tuple[float, ...]
    stream_accuracy: float


@attrs.frozen
class BaselinesStarted:
    """The students are ready; ``total`` baselines are being evaluated."""

    total: int


@attrs.frozen
class BaselineEvaluated:
    """A baseline was evaluated, or does not apply."""

    name: str


@attrs.frozen
class JobsStarted:
    """The runs of a sweep, or the experts of a zoo, start in this order; ``total`` includes those already done."""

    names: tuple[str, ...]
    total: int


@attrs.frozen
class JobProgress:
    """A job reported its progress."""

    name: str
    done: int
    total: int


@attrs.frozen
class JobEnded:
    """A job finished with a ``summary`` such as ``"stream accuracy 81.2%"``, or failed with a one-line ``error``."""

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
    | ReportStarted
    | ExpertRefused
    | ExpertScreened
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

    >>> from exml.learning.events import Event, ExperienceFinished
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
