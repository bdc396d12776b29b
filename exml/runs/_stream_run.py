"""Learning from one expert after another, with a line in the ledger and a student on the disk for each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import attrs

from exml.core.errors import ExpertError, NonFiniteError, ShapeError, StreamError
from exml.core.expert import Expert
from exml.core.shapes import Scalar
from exml.experts import ExpertCard, ExpertFiles, save_expert
from exml.experts._prefetch import ahead
from exml.learning import events
from exml.learning.events import Event, ExpertRefused, Observer, StrategyStarted, WaitingForExpert
from exml.learning.learner import Learner
from exml.learning.stop import Stop
from exml.models import Normalized
from exml.runs import samples_figure
from exml.runs._canvas import save_figure
from exml.runs._folder_watcher import Arrivals, Refused
from exml.runs._stream_log import Ledger
from exml.runs._stream_record import StreamRequest
from exml.runs._student import StudentPlan


class _Stopped(BaseException):
    """The run was told to stop, and all that was done is in the checkpoint; no component shall catch this."""


@attrs.frozen
class _Arrived:
    """An expert, built."""

    file: str
    card: ExpertCard
    expert: Expert


class StreamWork:
    """One run over a stream, under way; called once.

    Args:
        learner: with a checkpoint folder.
        request: what was asked for.
        folder: where the student goes.
        ledger: of the run.
        stop: asked by whoever wants the run to stop.
        observers: told of every event.
        leads: whether this process writes.
    """

    def __init__(
        self,
        learner: Learner,
        request: StreamRequest,
        folder: Path,
        ledger: Ledger,
        stop: Stop,
        observers: Sequence[Observer],
        *,
        leads: bool = True,
    ) -> None:
        self._leads = leads
        self._learner, self._request, self._folder, self._ledger = learner, request, folder, ledger
        self._stop, self._observers = stop, observers
        self.stopped = False
        self._began = 0.0
        self._number = learner.experience
        self._generating = True
        self._loss: Scalar | None = None
        learner.observers.append(self._observe)

    def __call__(self, source: Iterator[ExpertFiles | Refused], total: int | None) -> None:
        """Learn from all experts of a source, until it ends or the run is told to stop.

        Args:
            source: their files, read in the background; of :class:`Arrivals`, those that cannot be learned from are
                refused.
            total: how many experiences there will be in all; None where nobody knows.
        """
        self._tell(StrategyStarted("stream", total))
        if self._ledger.over < self._learner.experience:  # killed between the last checkpoint and the ledger
            self._record(None)
        arrivals = source if isinstance(source, Arrivals) else None
        items = ahead(map(partial(_unbuilt, self._request.student, arrivals is not None), source))
        try:
            while not self._stop.asked:
                self._tell(WaitingForExpert())
                self._began = time.perf_counter()
                item = next(items, None)
                if item is None or self._stop.asked:
                    break
                if arrivals is not None:  # the wait was nobody's work
                    self._began = time.perf_counter()
                self._take(item, arrivals)
                del item  # before the next one is built: one in use at a time
        except _Stopped:
            pass
        finally:
            items.close()
        self.stopped = self._stop.asked
        if self._leads:
            self._draw()

    def _take(self, item: _Arrived | Refused, arrivals: Arrivals | None) -> None:
        if isinstance(item, _Arrived):
            try:
                self._learn(item)
                return
            except (ExpertError, ShapeError, NonFiniteError) as error:
                if arrivals is None or not self._generating:
                    raise
                item = Refused(item.file, str(error))
        if arrivals is not None:
            arrivals.refuse(item.file)
        self._ledger.refused(item.file, item.reason)
        self._tell(ExpertRefused(item.file, item.reason))

    def _learn(self, item: _Arrived) -> None:
        self._number = self._learner.experience + 1
        if self._ledger.files[self._number - 1 :] != [item.file]:
            self._ledger.begun(self._number, item.file, item.card)
        self._generating = True
        self._learner.learn(item.expert)

    def _observe(self, event: events.Event, /) -> None:
        match event:
            case events.BufferUpdated():
                self._generating = False
            case events.DistillationProgress():
                self._generating, self._loss = False, event.loss
            case _:
                pass
        self._tell(event)
        if self._stop.asked:
            self._learner.stop = self._stop
        if isinstance(event, events.ExperienceFinished):
            self._record(time.perf_counter() - self._began)
        elif isinstance(event, events.CheckpointWritten) and self._stop.asked and event.experience < self._number:
            raise _Stopped

    def _record(self, seconds: float | None) -> None:
        """One experience more is over: the student first, so that there is one of all experiences in the ledger."""
        learner, plan, module = self._learner, self._request.student, self._learner.student
        assert isinstance(module, Normalized)
        student = Expert(
            module.module,  # without its normalisation, which is on the card, as for every other expert
            learner.classes_seen,
            plan.image_shape,
            outputs=range(plan.classes),
            mean=plan.mean,
            std=plan.std,
            name="student",
        )
        made = {"experts": learner.experience, "seed": self._request.seed, "strategy": self._request.strategy}
        if self._leads:
            save_expert(student, self._folder, "student", training=made)
        loss = math.nan if self._loss is None else float(self._loss)
        self._ledger.learned(learner.experience, seconds, loss if math.isfinite(loss) else None)
        self._loss = None

    def _draw(self) -> None:
        """A picture of what the student learned from."""
        try:
            memory = self._learner.memory
        except StreamError:  # nothing yet
            return
        experiences = self._ledger.experiences(set(memory.experiences.unique().tolist()))
        title = "images in the last buffer, by experience and label"
        save_figure(samples_figure(memory, experiences, title), self._folder / "samples.png")

    def _tell(self, event: Event) -> None:
        for observer in self._observers:
            observer(event)


def _unbuilt(plan: StudentPlan, tolerant: bool, item: ExpertFiles | Refused, /) -> Callable[[], _Arrived | Refused]:
    """What was read in the background, to be built in the learner's thread."""
    return partial(_built, plan, tolerant, item)


def _built(plan: StudentPlan, tolerant: bool, item: ExpertFiles | Refused, /) -> _Arrived | Refused:
    """The expert of two files, or why it cannot be had where that is no error."""
    if isinstance(item, Refused):
        return item
    file = item.path.stem
    try:
        plan.check(file, item.card)
        return _Arrived(file, item.card, item.expert())
    except (ExpertError, ShapeError) as error:
        if not tolerant:
            raise
        return Refused(file, str(error))
