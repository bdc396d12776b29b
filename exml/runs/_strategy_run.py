"""One strategy of a run: learn from one expert after another; after each, evaluate, save the student, and log it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import torch

from exml.core.errors import ExpertError, NonFiniteError, ShapeError, StreamError
from exml.core.expert import Expert
from exml.core.ranks import Ranks
from exml.core.shapes import Scalar
from exml.experts import ExpertCard, ExpertFiles, save_expert
from exml.experts.prefetch import ahead
from exml.learning import events
from exml.learning.checkpoint import CheckpointFolder
from exml.learning.learner import Learner
from exml.learning.stop import Stop
from exml.learning.strategy import Strategy
from exml.models import Normalized
from exml.runs.canvas import save_figure
from exml.runs.clock import Clock
from exml.runs.folder_watcher import Refused
from exml.runs.run_folder import RunFolder
from exml.runs.samples_figure import samples_figure
from exml.runs.sources import OpenFolder
from exml.runs.stream_log import StreamLog
from exml.runs.student_plan import StudentPlan


@attrs.frozen(eq=False)
class RunContext:
    """What the strategies of a run share.

    Args:
        source: where the experts come from.
        folder: the folder of the run.
        clock: the clock of the run.
        device: device to work on.
        checkpoint_every: see :class:`exml.learning.CheckpointFolder`.
        stop: asked between steps and between experts.
        observer: called with every event.
        ranks: the processes that do this together.
    """

    source: OpenFolder
    folder: RunFolder
    clock: Clock
    device: torch.device
    checkpoint_every: int
    stop: Stop
    observer: events.Observer
    ranks: Ranks

    def tell(self, event: events.Event) -> None:
        """Pass an event on, and write the record if it is time to."""
        self.observer(event)
        self.clock.tick()


@attrs.frozen
class _Arrived:
    """An expert, built."""

    file: str
    card: ExpertCard
    expert: Expert


class StrategyRun:
    """Runs one strategy from where it was left; called once.

    Args:
        name: name of the strategy in the run.
        strategy: what to do.
        context: what the strategies share.
    """

    def __init__(self, name: str, strategy: Strategy, context: RunContext) -> None:
        self._name, self._strategy, self._context = name, strategy, context
        self._folder, request = context.folder.of(name), context.folder.record.request
        self._progress = context.folder.record.strategies[name]
        self._made: dict[str, Any] = {"seed": request.seed, "strategy": request.strategies[name]}
        self._title = name
        if request.scenario is not None:
            self._made["scenario"], self._title = request.scenario, f"{request.scenario}-{name}"
        checkpoints = CheckpointFolder(self._folder / "checkpoint", context.checkpoint_every)
        begun = context.ranks.leader_says(checkpoints.exists())
        self.learner = Learner(
            strategy,
            context.source.make_student(request.seed).to(context.device),
            seed=request.seed,
            folder=None if begun else checkpoints,
            observers=[self._observe],
            execution=request.execution,
            ranks=context.ranks,
            stop=context.stop,
        )
        if begun:
            self.learner.resume(checkpoints)
        self._log = self._open_log()
        self._began = 0.0
        self._generating = True
        self._loss: Scalar | None = None

    def __call__(self) -> None:
        """Learn from all remaining experts of the source, until it ends or the run is stopped."""
        context, source, log, learned = self._context, self._context.source, self._log, self.learner.experience
        done, begun = log.files[:learned], log.files[learned:]
        with log:
            log.opened({"folder": str(source.folder), "environment": attrs.asdict(context.folder.environment)})
            context.tell(events.StrategyStarted(self._name, source.length(done)))
            if log.over < learned:  # killed between the last checkpoint and the log
                self._finish(None)
            items = ahead(map(partial(_unbuilt, source), source.remaining(done, begun)))
            try:
                while not context.ranks.leader_says(context.stop.asked):
                    context.clock.enter(None if source.names is None else "generation", self._name)
                    context.tell(events.WaitingForExpert())
                    item = next(items, None)
                    if item is None:
                        break
                    self._take(item)
                    del item  # before the next one is built: one in use at a time
            finally:
                items.close()
            context.clock.enter("evaluation", self._name)
            if context.ranks.leader:
                self._draw()

    def _open_log(self) -> StreamLog:
        """All ranks read the log before the leader appends to it."""
        ranks, path = self._context.ranks, self._folder / "stream.jsonl"
        if ranks.leader:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        ranks.wait()
        log = StreamLog(path, writes=ranks.leader)
        ranks.wait()
        return log

    def _take(self, item: _Arrived | Refused) -> None:
        source = self._context.source
        if isinstance(item, _Arrived):
            try:
                self._learn(item)
                return
            except (ExpertError, ShapeError, NonFiniteError) as error:
                if source.names is not None or not self._generating:
                    raise
                item = Refused(item.file, str(error))
        source.refuse(item.file)
        self._log.refused(item.file, item.reason)
        self._context.tell(events.ExpertRefused(item.file, item.reason))

    def _learn(self, item: _Arrived) -> None:
        number = self.learner.experience + 1
        if self._log.files[number - 1 :] != [item.file]:
            self._log.begun(number, item.file, item.card)
        self._generating, self._began = True, time.perf_counter()
        self.learner.learn(item.expert)

    def _observe(self, event: events.Event, /) -> None:
        match event:
            case events.ExperienceStarted():
                self._context.clock.enter("generation", self._name)
            case events.BufferUpdated():
                self._generating = False
                self._context.clock.enter("distillation", self._name)
            case events.DistillationProgress():
                self._generating, self._loss = False, event.loss
                self._context.clock.enter("distillation", self._name)
            case _:
                pass
        self._context.tell(event)
        if isinstance(event, events.ExperienceFinished):
            self._finish(time.perf_counter() - self._began)

    def _finish(self, seconds: float | None) -> None:
        """Evaluate and save the student, then log the experience: a logged experience has its student on the disk."""
        context, learner, number = self._context, self.learner, self.learner.experience
        context.clock.enter("evaluation", self._name)
        evaluation = context.source.evaluate(learner.student, context.ranks)
        if evaluation is not None:
            self._progress.accuracy = (*self._progress.accuracy[: number - 1], evaluation.accuracies)
            context.clock.save()
            seen = evaluation.stream_until(number)
            context.tell(events.StudentEvaluated(self._name, number, evaluation.accuracies, seen))
        if context.ranks.leader:
            student = _as_expert(learner, context.source.plan, self._title)
            save_expert(student, self._folder, "student", training={"experts": number, **self._made})
        loss = math.nan if self._loss is None else float(self._loss)
        self._log.learned(number, seconds, loss if math.isfinite(loss) else None)
        self._loss = None

    def _draw(self) -> None:
        """A figure of the images that the student learned from."""
        try:
            memory = self.learner.memory
        except StreamError:  # nothing learned yet
            return
        experiences = self._log.experiences(set(memory.experiences.unique().tolist()))
        title = f"{self._context.source.title}: images in the last buffer of {self._name}, by expert and label"
        save_figure(samples_figure(memory, experiences, title), self._folder / "samples.png")


def _as_expert(learner: Learner, plan: StudentPlan, name: str) -> Expert:
    """The student as an expert that others can learn from; its normalization goes onto the card."""
    assert isinstance(learner.student, Normalized)
    return Expert(
        learner.student.module,
        learner.classes_seen,
        plan.image_shape,
        outputs=range(plan.classes),
        mean=plan.mean,
        std=plan.std,
        name=name,
    )


def _unbuilt(source: OpenFolder, item: ExpertFiles | Refused, /) -> Callable[[], _Arrived | Refused]:
    """Files that were read in the background, to be built in the learner's thread; what fails may be refused."""

    def build() -> _Arrived | Refused:
        if isinstance(item, Refused):
            return item
        name = item.path.stem
        try:
            source.plan.check(name, item.card)
            return _Arrived(name, item.card, item.expert())
        except (ExpertError, ShapeError) as error:
            if source.names is not None:
                raise
            return Refused(name, str(error))

    return build
