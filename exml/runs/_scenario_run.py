"""The stages of a run. Each does what is not done yet, so that a resumed run goes through all of them again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from exml.core.components import uses_real_data
from exml.core.expert import Expert
from exml.core.ranks import Ranks
from exml.experts import ExpertStream, save_expert
from exml.learning import events
from exml.learning.checkpoint import CheckpointFolder
from exml.learning.events import (
    BaselineEvaluated,
    BaselinesStarted,
    Event,
    ExpertsProgress,
    Observer,
    StrategyStarted,
    StudentEvaluated,
    WaitingForProcess,
)
from exml.learning.learner import Learner
from exml.learning.strategy import Strategy
from exml.models import Normalized
from exml.runs._baselines import BASELINES, baseline_result
from exml.runs._canvas import save_figure
from exml.runs._clock import Clock
from exml.runs._folder import RunFolder
from exml.runs._lock import lock
from exml.runs.accuracy_figure import accuracy_figure
from exml.runs.evaluation import Evaluation, evaluate_student, forgetting
from exml.runs.result import BaselineResult, ExperienceResult, Result, StrategyResult
from exml.runs.samples_figure import samples_figure
from exml.scenarios import Scenario


class Work:
    """One run, under way; called once.

    Args:
        scenario: with the test sets to measure on.
        strategies: by name.
        folder: of the run; its record says the seed, and in which order the strategies come.
        experts: their folder, which other runs may share.
        clock: of the run.
        device: where to work.
        checkpoint_every: as for :class:`exml.Learner`.
        observers: told of every event.
        ranks: that do this together.
        baselines: whether they are measured.
    """

    def __init__(
        self,
        scenario: Scenario,
        strategies: Mapping[str, Strategy],
        folder: RunFolder,
        experts: Path,
        clock: Clock,
        device: torch.device,
        checkpoint_every: int,
        observers: Sequence[Observer],
        ranks: Ranks,
        *,
        baselines: bool,
    ) -> None:
        self._ranks, self._baselines = ranks, baselines
        self._scenario, self._folder, self._clock, self._device = scenario, folder, clock, device
        self._experts = experts
        self._checkpoint_every, self._observers = checkpoint_every, observers
        self._request = folder.record.request
        self._strategies = {name: strategies[name] for name in self._request.strategies}
        self._experiences = tuple(
            ExperienceResult(index=part.index, classes=part.classes, task=part.task, images=len(part.test))
            for part in scenario.experiences
        )

    def __call__(self) -> Result:
        """Experts, students, baselines, result."""
        experts = self._train_experts()
        for name, strategy in self._strategies.items():
            learner = self._learn(name, strategy, experts)
            if self._ranks.leader:
                self._save_student(name, strategy, learner)
            del learner  # before the next one
        if self._ranks.leader:
            self._finish(experts)
        self._ranks.wait()
        return Result.load(self._folder.result)

    def _finish(self, experts: ExpertStream) -> None:
        baselines = self._evaluate_baselines(experts) if self._baselines else ()
        self._clock.save()
        record, path = self._folder.record, self._folder.path
        learned = tuple(self._summary(name, strategy) for name, strategy in self._strategies.items())
        result = Result(
            scenario=self._request.scenario,
            seed=self._request.seed,
            split=self._request.split,
            shared_test=self._scenario.shared_test,
            experiences=self._experiences,
            strategies=learned,
            baselines=baselines,
            seconds=sum((part.seconds for part in learned), record.shared),
            environments=record.environments,
        )
        if learned:
            save_figure(accuracy_figure(result), path / "accuracy.png")
        result.save(self._folder.result)

    def _train_experts(self) -> ExpertStream:
        self._clock.enter("experts")
        self._tell(ExpertsProgress(0, len(self._experiences) * self._scenario.training.epochs))

        def report(done: int, total: int) -> None:
            self._tell(ExpertsProgress(done, total))

        def on_wait() -> None:
            self._tell(WaitingForProcess(self._experts))

        with ExitStack() as stack:
            if self._ranks.leader:  # the first of the runs that share them trains, the others wait and load
                stack.enter_context(lock(self._experts, on_wait))
                for part in self._experts.glob(".*.part"):  # what a killed process left half-written
                    part.unlink(missing_ok=True)
            self._ranks.wait()
            return self._scenario.train_experts(
                self._request.seed, self._experts, device=self._device, progress=report, ranks=self._ranks
            )

    def _learn(self, name: str, strategy: Strategy, experts: ExpertStream) -> Learner:
        """Algorithm 1 from where it was left, with an evaluation after each experience."""
        self._clock.enter("generation", name)
        checkpoints = self._folder.of(name) / "checkpoint"
        begun = self._ranks.leader_says(CheckpointFolder(checkpoints).exists())
        learner = Learner(
            strategy,
            self._scenario.make_student(self._request.seed).to(self._device),
            seed=self._request.seed,
            folder=None if begun else CheckpointFolder(checkpoints, self._checkpoint_every),
            execution=self._request.execution,
            ranks=self._ranks,
        )
        if begun:
            learner.resume(CheckpointFolder(checkpoints, self._checkpoint_every))
        progress = self._folder.record.strategies[name]
        progress.accuracy = progress.accuracy[: learner.experience]

        def evaluate() -> None:
            self._clock.enter("evaluation", name)
            found = evaluate_student(learner.student, self._scenario, ranks=self._ranks)
            progress.accuracy += (found.accuracies,)
            self._clock.save()
            seen = found.stream_until(learner.experience)
            self._tell(StudentEvaluated(name, learner.experience, found.accuracies, seen))

        def observe(event: events.Event, /) -> None:
            match event:
                case events.ExperienceStarted():
                    self._clock.enter("generation", name)
                case events.BufferUpdated() | events.DistillationProgress():
                    self._clock.enter("distillation", name)
                case _:
                    pass
            self._tell(event)
            if isinstance(event, events.ExperienceFinished):
                evaluate()

        self._tell(StrategyStarted(name, len(experts)))
        if len(progress.accuracy) < learner.experience:  # killed after the last step, before its evaluation
            evaluate()
        learner.observers.append(observe)
        learner.learn_stream(experts)
        return learner

    def _save_student(self, name: str, strategy: Strategy, learner: Learner) -> None:
        """As an expert that others can learn from, and a picture of what it learned from itself."""
        self._clock.enter("evaluation", name)
        scenario, request, folder = self._scenario, self._request, self._folder.of(name)
        student = learner.student
        assert isinstance(student, Normalized)
        expert = Expert(
            student.module,  # without its normalisation, which is on the card, as for every other expert
            learner.classes_seen,
            scenario.image_shape,
            outputs=range(scenario.classes),
            mean=scenario.mean,
            std=scenario.std,
            name=f"{scenario.name}-{name}",
        )
        made = {"scenario": request.scenario, "seed": request.seed, "strategy": strategy.to_dict()}
        save_expert(expert, folder, "student", training=made)
        title = f"{scenario.name}, seed {request.seed}: images in the last buffer of {name}, by expert and label"
        save_figure(samples_figure(learner.memory, self._experiences, title), folder / "samples.png")

    def _evaluate_baselines(self, experts: ExpertStream) -> tuple[BaselineResult, ...]:
        self._clock.enter("evaluation")
        self._tell(BaselinesStarted(len(BASELINES)))
        results: list[BaselineResult] = []
        for name in BASELINES:
            results.append(baseline_result(name, experts, self._scenario, self._device))
            self._tell(BaselineEvaluated(name))
        return tuple(results)

    def _summary(self, name: str, strategy: Strategy) -> StrategyResult:
        plain, progress = strategy.to_dict(), self._folder.record.strategies[name]
        sizes = tuple(experience.images for experience in self._experiences)
        rows = [Evaluation(row, sizes) for row in progress.accuracy]
        return StrategyResult(
            name=name,
            strategy=plain,
            ex_model=not uses_real_data(strategy),
            accuracy=progress.accuracy,
            stream_accuracy=tuple(row.stream_until(place) for place, row in enumerate(rows, 1)),
            forgetting=forgetting(torch.tensor(progress.accuracy, dtype=torch.float64)),
            seconds=progress.seconds,
            folder=str(self._folder.of(name).relative_to(self._folder.path)),
        )

    def _tell(self, event: Event) -> None:
        for observer in self._observers:
            observer(event)
        self._clock.tick()
