"""The stages of a run: the experts, the strategies one after another, the baselines, and the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import attrs
import torch

from exml.core.components import uses_real_data
from exml.core.errors import (
    CheckpointError,
    ExmlError,
    ExpertError,
    NonFiniteError,
    ShapeError,
    StreamError,
    SuspectError,
    warn,
)
from exml.core.expert import Expert
from exml.core.files import file_digest
from exml.core.ranks import Ranks
from exml.core.serialization import leaves, to_plain
from exml.experts import ExpertCard, ExpertFiles, read_expert, save_expert
from exml.experts.prefetch import ahead
from exml.experts.pretrained import save_pretrained
from exml.learning import events
from exml.learning.checkpoint import CheckpointFolder
from exml.learning.learner import Learner
from exml.learning.preflight import check_student
from exml.learning.stop import Stop
from exml.learning.strategy import Strategy
from exml.models import Normalized
from exml.runs.agreement import Agreement, agreement
from exml.runs.evaluation import Evaluation, forgetting
from exml.runs.figures import accuracy_figure, samples_figure, save_figure
from exml.runs.folder_watcher import Refused
from exml.runs.record import RunFolder
from exml.runs.result import ExperienceResult, Result, StrategyResult, TargetAudit
from exml.runs.sources import LiveExpert, OpenExperts
from exml.runs.stream_log import StreamLog


@attrs.frozen(eq=False)
class RunContext:
    """What the strategies of a run share."""

    source: OpenExperts
    folder: RunFolder
    device: torch.device
    checkpoint_every: int
    stop: Stop
    observer: events.Observer
    ranks: Ranks

    def tell(self, event: events.Event) -> None:
        """Pass an event to the observer, and write the record if it is time to."""
        self.observer(event)
        self.folder.tick()


def carry_out(context: RunContext, strategies: Mapping[str, Strategy]) -> Result:
    """Carry out a run. Each stage does what is not done yet, so a resumed run goes through all of them."""
    source, folder, ranks = context.source, context.folder, context.ranks
    folder.record.files = {}
    folder.enter("experts")
    source.prepare(folder.record.request.seed, context.device, context.tell, ranks)
    rows: list[StrategyResult] = []
    stopped = False
    for name, strategy in strategies.items():
        strategy_run = _StrategyRun(name, strategy, context)
        strategy_run()
        rows.append(strategy_run.result())
        del strategy_run  # frees the models before the next strategy
        stopped = ranks.leader_says(context.stop.asked)
        if stopped:
            break
    if ranks.leader:
        folder.enter("evaluation")
        baselines = () if stopped else source.evaluate_baselines(context.device, context.tell)
        folder.save()
        record = folder.record
        rows = [attrs.evolve(row, seconds=record.strategies[row.name].seconds) for row in rows]
        result = Result(
            scenario=record.request.scenario,
            seed=record.request.seed,
            split=record.request.split,
            shared_test=source.shared_test,
            experiences=source.tests,
            strategies=tuple(rows),
            baselines=baselines,
            seconds=sum((row.seconds for row in rows), record.shared),
            environments=record.environments,
            stopped=stopped,
        )
        if result.preferred is not None and len(rows) > 1 and record.request.student is not None and not stopped:
            kept = read_expert(folder.of(result.preferred.name))
            save_pretrained(kept.expert(), folder.path, provenance=kept.card.training)
        if rows and source.tests and not stopped:
            save_figure(accuracy_figure(result), folder.path / "accuracy.png")
        result.save(folder.result)
        folder.seal()
    ranks.wait()
    return Result.load(folder.result)


@attrs.frozen
class _Arrived:
    """An expert that was built, as the student sees it."""

    file: str
    card: ExpertCard
    expert: Expert


class _StrategyRun:
    """One strategy: learn from one expert after another; after each, evaluate, save the student, and log it."""

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
        self._learner = Learner(
            strategy,
            context.source.make_student(request.seed).to(context.device),
            seed=request.seed,
            folder=None if begun else checkpoints,
            observers=[self._observe],
            execution=request.execution,
            ranks=context.ranks,
            stop=context.stop,
        )
        if strategy.calibration is not None:
            self._learner.start = context.source.start(request.seed)
        if begun:
            self._learner.resume(checkpoints)
            if not all(isinstance(note.get("file"), str) for note in self._learner.history):
                expected, remedy = f"the file of each expert in {checkpoints.path}", "start again in another folder"
                raise CheckpointError(expected=expected, got="a checkpoint that was not of a run", remedy=remedy)
        if context.source.names is None and strategy.on_suspect is None:
            self._learner.on_suspect = "refuse"
        self._outputs = check_student(self._learner.student, context.source.plan.image_shape)
        self._log = self._open_log()
        self._began = 0.0
        self._generating = True
        self._drawn: int | None = None
        self._agreement: Agreement | None = None
        self._audit: TargetAudit | None = None

    def __call__(self) -> None:
        """Learn from all remaining experts of the source, until it ends or the run is stopped."""
        context, source, log, learned = self._context, self._context.source, self._log, self._learner.experience
        files = [note["file"] for note in self._learner.history]
        done, begun = files[:learned], files[learned:]
        with log:
            where = None if source.folder is None else str(source.folder)
            log.write("opened", folder=where, environment=attrs.asdict(context.folder.environment))
            request = context.folder.record.request
            plain = {**request.strategies[self._name], "scenario": request.scenario, "seed": request.seed}
            settings = dict(leaves({**plain, "device": request.device, "kind": None}))
            context.tell(events.StrategyStarted(self._name, source.length(done), settings))
            if log.over < learned:  # killed between the last checkpoint and the log
                self._finish(None)
            elif learned and not begun and context.ranks.leader:  # the next experience would replace a damaged file
                self._save()
            self._learner.preview(source.loads(list(source.cards)))
            # A stop while a followed folder is idle must not wait for the figure, so it is drawn before.
            idle = self._draw if source.names is None else None
            items = ahead(map(partial(_unbuilt, source), source.remaining(done, begun)), idle=idle)
            try:
                while not context.ranks.leader_says(context.stop.asked):
                    context.folder.enter(None if source.names is None else "generation", self._name)
                    context.tell(events.WaitingForExpert())
                    item = next(items, None)
                    if item is None:
                        break
                    self._take(item)
                    del item  # before the next one is built: one in use at a time
            finally:
                items.close()
            context.folder.enter("evaluation", self._name)
            if context.ranks.leader:
                self._draw()
                self._report()

    def result(self) -> StrategyResult:
        folder, progress = self._context.folder, self._progress
        sizes = tuple(test.images for test in self._context.source.tests)
        rows = [Evaluation(row, sizes) for row in progress.accuracy]
        return StrategyResult(
            name=self._name,
            strategy=self._strategy.to_dict(),
            ex_model=not uses_real_data(self._strategy),
            accuracy=progress.accuracy,
            stream_accuracy=tuple(row.stream_until(place) for place, row in enumerate(rows, 1)),
            forgetting=forgetting(progress.accuracy),
            seconds=progress.seconds,
            folder=str(self._folder.relative_to(folder.path)),
            experiences=self._learner.experience,
            classes=self._learner.classes_seen,
            suspects=tuple(self._log.suspects.values()),
            forecast=progress.forecast,
            agreement=self._agreement,
            audit=self._audit,
        )

    def _open_log(self) -> StreamLog:
        """All ranks read the log before the leader appends to it."""
        ranks, learner = self._context.ranks, self._learner
        path = self._folder / "stream.jsonl"
        log = StreamLog(path, learner.history, learner.experience, writes=ranks.leader)
        ranks.wait()
        return log

    def _take(self, item: _Arrived | Refused) -> None:
        source = self._context.source
        if isinstance(item, _Arrived):
            try:
                self._learn(item)
                return
            except (ExpertError, ShapeError, NonFiniteError) as error:
                may_refuse = source.names is None or isinstance(error, SuspectError)
                if not may_refuse or not self._generating:
                    raise
                item = Refused(item.file, str(error))
        source.refuse(item.file)
        self._log.write("refused", file=item.file, reason=item.reason)
        self._context.tell(events.ExpertRefused(item.file, item.reason))

    def _learn(self, item: _Arrived) -> None:
        context, number, card = self._context, self._learner.experience + 1, item.card
        about = {"expert": card.name, "classes": list(item.expert.classes), "task": card.task, "sha256": card.sha256}
        note = {"experience": number, "file": item.file, **about}
        if context.folder.record.request.student is not None:  # not of a scenario
            context.folder.keep(context.source.labels)
        needed = 1 + max(unit for unit in item.expert.outputs if unit is not None)
        if needed > self._outputs:
            self._learner.grow(needed, context.source.plan.image_shape)
            self._outputs = needed
        self._log.begin(note)
        self._generating, self._began = True, time.perf_counter()
        self._learner.learn(item.expert, note=note)

    def _observe(self, event: events.Event, /) -> None:
        folder = self._context.folder
        if isinstance(event, events.ExperienceStarted):
            folder.enter("generation", self._name)
        elif isinstance(event, events.BufferUpdated | events.DistillationProgress):
            self._generating = False
            folder.enter("distillation", self._name)
        elif isinstance(event, events.ExpertScreened) and event.screening.problems:
            self._log.screen(event.experience, to_plain(event.screening))
        self._context.tell(event)
        if isinstance(event, events.ExperienceFinished):
            self._finish(time.perf_counter() - self._began)

    def _finish(self, seconds: float | None) -> None:
        """Evaluate and save the student, then log the experience: a logged experience has its student on the disk."""
        context, learner, number = self._context, self._learner, self._learner.experience
        context.folder.enter("evaluation", self._name)
        evaluation = context.source.evaluate(learner.student, context.ranks)
        if evaluation is not None:
            self._progress.accuracy = (*self._progress.accuracy[: number - 1], evaluation.accuracies)
            context.folder.save()
            seen = evaluation.stream_until(number)
            context.tell(events.StudentEvaluated(self._name, number, evaluation.accuracies, seen))
        if context.ranks.leader:
            self._save()
        self._log.write("learned", experience=number, seconds=seconds, loss=learner.history[-1]["loss"])

    def _save(self) -> None:
        if self._context.folder.record.request.student is None:
            made = {"experts": self._learner.experience, **self._made}
            save_expert(self.student(), self._folder, "student", training=made, overwrite=True)
        else:
            save_pretrained(self.student(), self._folder, provenance=self.provenance())

    def provenance(self) -> dict[str, Any]:
        """Where the student comes from, for its model card."""
        labels = self._context.source.labels.labels
        experts = [
            {
                "name": note["expert"],
                "sha256": note["sha256"],
                **(
                    {"classes": note["classes"]} if labels is None else {"labels": [labels[i] for i in note["classes"]]}
                ),
            }
            for note in self._learner.history[: self._learner.experience]
        ]
        found = {"experts": experts, **self._made, "versions": self._context.folder.environment.versions}
        if self._agreement is not None:
            found |= {"verdict": self._agreement.verdict, "warning": self._agreement.warning}
        return found

    def _report(self) -> None:
        """Compare the student with the experts that are still there, and save it with the verdict.

        In a run over a scenario, also evaluate its targets; no published time includes that.
        """
        context, source, learner = self._context, self._context.source, self._learner
        files = [note["file"] for note in learner.history[: learner.experience]]
        loads = source.loads([file for file in files if file in source.cards])
        if not loads or context.stop.asked:
            return
        context.tell(events.ReportStarted())
        if source.tests:
            context.folder.enter(None)
            reached = self.result().stream_accuracy[-1]
            self._audit = source.audit(learner, reached)
        try:
            student = self.student().to(context.device)
            self._agreement = agreement(student, loads, seed=learner.seed)
        except ExmlError as error:
            warn("a report on the student", str(error), "evaluate it with exml evaluate")
        if context.folder.record.request.student is not None:
            self._save()

    def _draw(self) -> None:
        """Draw some of the images that the student learned from, unless they have been drawn."""
        if self._drawn == self._learner.experience:
            return
        try:
            memory = self._learner.memory
        except StreamError:  # nothing learned yet
            return
        history = self._learner.history
        experiences = [
            ExperienceResult(index=number, classes=tuple(note["classes"]), task=note["task"], images=1)
            for number in memory.experiences.unique().tolist()
            for note in [history[number - 1]]
        ]
        title = f"{self._context.source.title}: images in the last buffer of {self._name}, by expert and label"
        save_figure(samples_figure(memory, experiences, title), self._folder / "samples.png")
        self._drawn = self._learner.experience

    def student(self) -> Expert:
        """The student as an expert that others can learn from; its normalization goes onto the card."""
        plan, labels, student = self._context.source.plan, self._context.source.labels.labels, self._learner.student
        assert isinstance(student, Normalized)
        return Expert(
            student.module,
            self._learner.classes_seen,
            plan.image_shape,
            labels=labels and [labels[known] for known in self._learner.classes_seen],
            outputs=range(self._outputs),
            mean=plan.mean,
            std=plan.std,
            name=self._title,
        )


def _unbuilt(source: OpenExperts, item: ExpertFiles | LiveExpert | Refused, /) -> Callable[[], _Arrived | Refused]:
    """An expert that was read in the background, to be built in the learner's thread; a followed folder refuses it."""

    def build() -> _Arrived | Refused:
        if isinstance(item, Refused):
            return item
        try:
            card = item.card
            if card.sha256 is None and isinstance(item, ExpertFiles):  # for the log and the student's model card
                weights = item.path / "model.safetensors" if item.path.is_dir() else item.path
                card = attrs.evolve(card, sha256=file_digest(weights) if weights.is_file() else None)
            return _Arrived(item.name, card, source.admitted(item.name, card, item.expert()))
        except ExmlError as error:
            if source.names is not None:
                raise
            return Refused(item.name, str(error))

    return build
