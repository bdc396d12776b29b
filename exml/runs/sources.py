"""Where the experts of a run come from: a scenario, or a folder of experts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import torch

from exml import models, scenarios
from exml.core.components import uses_real_data
from exml.core.errors import SettingError
from exml.core.expert import Expert
from exml.core.ranks import Ranks
from exml.core.validators import in_range
from exml.experts import ExpertCard, ExpertFiles, ExpertProfile, ExpertStream, read_cards, read_expert, untrained_expert
from exml.experts.card import CLASSES
from exml.learning.events import BaselineEvaluated, BaselinesStarted, ExpertsProgress, Observer, WaitingForProcess
from exml.learning.stop import Stop
from exml.learning.strategy import Strategy
from exml.models import Normalized
from exml.runs.evaluation import BASELINES, Evaluation, baseline_result, evaluate_student
from exml.runs.folder_lock import lock
from exml.runs.folder_watcher import FolderWatcher, Refused
from exml.runs.record import Request
from exml.runs.result import BaselineResult, ExperienceResult
from exml.runs.student_plan import StudentPlan, plan_student


@attrs.frozen
class ScenarioExperts:
    """The experts of a scenario: the run trains them, and evaluates students and baselines on the scenario's test sets.

    Args:
        name: one of :func:`exml.scenarios.names`.
        split: the images that accuracies are measured on; ``"validation"`` reads no test image.
        folder: the folder of the experts, ``OUT/experts`` by default. Runs of one scenario and seed may share it, also
            at the same time: the first trains, the others wait and load.
        baselines: whether to evaluate the baselines. They are the same for all runs of one scenario and seed.
    """

    name: str
    split: scenarios.Split = "test"
    folder: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path))
    baselines: bool = True

    def open(self, seed: int, out: Path, _stop: Stop, _begun: Request | None) -> OpenFolder:
        """Load the scenario; an UnknownNameError or a DataError says why it cannot be loaded.

        :meta private:
        """
        return _OpenScenario(self, seed, out)


@attrs.frozen
class FolderExperts:
    """A folder of experts, ``NAME.json`` and ``NAME.safetensors`` each, in the order of their cards or names.

    A folder has no test data, so the run measures no accuracy. The student normalizes images as the first expert does.

    Args:
        folder: path of the folder.
        follow: keep learning from experts that arrive in the folder until the run is stopped. The run refuses an expert
            that the student cannot learn from and continues; it waits for the missing part of a pair of files.
        poll: seconds between two looks at a followed folder.
        student: name and settings of the student's architecture in :mod:`exml.models`, by default that of the first
            expert; missing ``channels``, ``classes`` and ``image_size`` are filled in.
        classes: number of the student's outputs; by default one more than the largest class id on the cards.
    """

    folder: Path = attrs.field(converter=Path)
    follow: bool = False
    poll: float = attrs.field(default=1.0, validator=in_range(0, open_low=True))
    student: Mapping[str, Any] | None = None
    classes: int | None = attrs.field(default=None, validator=in_range(1, CLASSES, optional=True, integer=True))

    def open(self, seed: int, out: Path, stop: Stop, begun: Request | None) -> OpenFolder | None:
        """Read the cards, which an ExmlError may refuse; None if the wait for a first card was stopped.

        :meta private:
        """
        if self.student is not None:
            models.settings(self.student["name"])  # an unknown name is an error before any wait
        cards = {} if self.follow else read_cards(self.folder)
        if begun is not None and begun.student is not None:
            plan = begun.student
            plan.require_same(out, self.student, self.classes)
            plan.make(seed)
        elif cards:
            plan = self._plan(seed, cards)
        else:
            found = FolderWatcher(self.folder, (), None, stop, self.poll).plan(partial(self._plan, seed))
            if found is None:
                return None
            arrived, plan = found
            fitting = {name: card for name, card in arrived.items() if plan.fits(name, card)}
            return OpenFolder(self, plan, fitting, stop)
        for name, card in cards.items():
            plan.check(name, card)
        return OpenFolder(self, plan, cards, stop)

    def _plan(self, seed: int, cards: Mapping[str, ExpertCard]) -> StudentPlan:
        plan = plan_student(cards, self.student, self.classes)
        plan.check(*next(iter(cards.items())))
        plan.make(seed)
        return plan


class OpenFolder:
    """A folder of experts whose cards were read; ``names`` is None if more experts may arrive."""

    tests: tuple[ExperienceResult, ...] = ()
    shared_test: bool = False

    def __init__(self, source: FolderExperts, plan: StudentPlan, cards: Mapping[str, ExpertCard], stop: Stop) -> None:
        self._source, self._cards, self._stop = source, cards, stop
        self._watcher: FolderWatcher | None = None
        self.asked: Mapping[str, Any] = {"student": plan}
        self.plan, self.folder, self.title = plan, source.folder, source.folder.name
        self.names = None if source.follow else list(cards)

    def make_student(self, seed: int) -> Normalized:
        """The student with its initial weights."""
        return self.plan.make(seed)

    def example(self) -> Expert:
        """An expert of the stream, trained or not, to time a strategy with."""
        return read_expert(self.folder / f"{next(iter(self._cards))}.json").expert()

    def profile(self) -> ExpertProfile:
        """The profile of the experts, for recipes."""
        return ExpertProfile.from_cards(self._cards, self.folder, open_ended=True)

    def check(self, strategy: Strategy) -> None:
        """Refuse a strategy that reads the experts' data, or whose buffer is too small for the stream."""
        if uses_real_data(strategy):
            raise SettingError(
                expected="a strategy that learns without the data of the experts",
                got="one that reads it",
                remedy="choose another one of 'exml strategies', or give a file",
            )
        if self.names is not None:
            strategy.buffer.share(len(self.names))

    def prepare(self, _seed: int, _device: torch.device, _tell: Observer, _ranks: Ranks) -> None:
        """Train the experts, unless they exist."""

    def remaining(self, done: Sequence[str], begun: Sequence[str]) -> Iterator[ExpertFiles | Refused]:
        """The files of the experts that are left, with the one in progress first; a followed folder waits for more."""
        if self.names is None:
            first = next(iter(begun), None)
            self._watcher = FolderWatcher(self.folder, done, first, self._stop, self._source.poll)
            return self._watcher
        left, learned = dict.fromkeys([*begun, *self.names]), set(done)
        return map(read_expert, [self.folder / f"{name}.json" for name in left if name not in learned])

    def preview(self) -> list[Callable[[], Expert]]:
        """Functions that load the experts that are there, in their order."""

        def load(name: str) -> Expert:
            return read_expert(self.folder / f"{name}.json").expert()

        return [partial(load, name) for name in self.names or self._cards]

    def length(self, done: Sequence[str]) -> int | None:
        """The length of the stream; None if it is unknown."""
        return None if self.names is None else len({*done, *self.names})

    def refuse(self, name: str) -> None:
        """Mark an expert as refused."""
        if self._watcher is not None:
            self._watcher.refuse(name)

    def close(self) -> None:
        """End the wait for more experts."""
        if self._watcher is not None:
            self._stop.ask()

    def evaluate(self, _student: torch.nn.Module, _ranks: Ranks) -> Evaluation | None:
        """Evaluate the student on the test sets, if there are any."""
        return None

    def evaluate_baselines(self, _device: torch.device, _tell: Observer) -> tuple[BaselineResult, ...]:
        """Evaluate the baselines, if there are test sets and the source includes baselines."""
        return ()


class _OpenScenario(OpenFolder):
    """A loaded scenario, whose experts become a folder, and whose test sets students are evaluated on."""

    def __init__(self, source: ScenarioExperts, seed: int, out: Path) -> None:
        self._baselines = source.baselines
        self._scenario = scenario = scenarios.load(source.name, seed, source.split)
        self._experts = ExpertStream(())
        plan = StudentPlan(scenario.architecture, scenario.classes, scenario.image_shape, scenario.mean, scenario.std)
        super().__init__(FolderExperts(source.folder or out / "experts"), plan, {}, Stop())
        self.asked = {"scenario": source.name, "split": source.split}
        self.names = [f"expert-{part.index}" for part in scenario.experiences]
        self.title = f"{source.name}, seed {seed}"
        self.tests = tuple(
            ExperienceResult(index=part.index, classes=part.classes, task=part.task, images=len(part.test))
            for part in scenario.experiences
        )
        self.shared_test = scenario.shared_test

    def make_student(self, seed: int) -> Normalized:
        return self._scenario.make_student(seed)

    def example(self) -> Expert:
        scenario, first = self._scenario, self._scenario.experiences[0]
        module = scenario.make_module(0, "experts")
        return untrained_expert(module, first.train, mean=scenario.mean, std=scenario.std, task=first.task)

    def profile(self) -> ExpertProfile:
        return self._scenario.profile()

    def check(self, strategy: Strategy) -> None:
        strategy.buffer.share(len(self.tests))

    def prepare(self, seed: int, device: torch.device, tell: Observer, ranks: Ranks) -> None:
        def report(done: int, total: int) -> None:
            tell(ExpertsProgress(done, total))

        report(0, len(self.tests) * self._scenario.training.epochs)
        with ExitStack() as stack:
            if ranks.leader:
                stack.enter_context(lock(self.folder, lambda: tell(WaitingForProcess(self.folder))))
            ranks.wait()
            self._experts = self._scenario.train_experts(seed, self.folder, device=device, progress=report, ranks=ranks)

    def evaluate(self, student: torch.nn.Module, ranks: Ranks) -> Evaluation:
        return evaluate_student(student, self._scenario, ranks=ranks)

    def evaluate_baselines(self, device: torch.device, tell: Observer) -> tuple[BaselineResult, ...]:
        if not self._baselines:
            return ()
        tell(BaselinesStarted(len(BASELINES)))
        results: list[BaselineResult] = []
        for name in BASELINES:
            results.append(baseline_result(name, self._experts, self._scenario, device))
            tell(BaselineEvaluated(name))
        return tuple(results)
