"""Where the experts of a run come from: a scenario, a folder of experts, or memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import attrs
import torch

from exml import models, scenarios
from exml.core.components import uses_real_data
from exml.core.errors import ExmlError, FolderError, SettingError, StreamError
from exml.core.expert import Expert
from exml.core.files import MEGABYTE
from exml.core.ranks import Ranks
from exml.core.shapes import State
from exml.core.validators import in_range
from exml.experts import (
    Entry,
    ExpertCard,
    ExpertFiles,
    ExpertProfile,
    ExpertStream,
    LabelPlan,
    plan_labels,
    read_card,
    read_expert,
    untrained_expert,
)
from exml.experts.card import metadata
from exml.experts.entries import entry_of
from exml.experts.loading import read_folder
from exml.learning.events import BaselineEvaluated, BaselinesStarted, ExpertsProgress, Observer, WaitingForProcess
from exml.learning.learner import Learner
from exml.learning.preflight import share_of
from exml.learning.stop import Stop
from exml.learning.strategy import Strategy
from exml.models import Normalized
from exml.runs.audit import References, audit, references
from exml.runs.evaluation import BASELINES, Evaluation, baseline_result, evaluate_student
from exml.runs.folder_lock import lock
from exml.runs.folder_watcher import FolderWatcher, Refused
from exml.runs.forecast import memory
from exml.runs.record import Record
from exml.runs.result import BaselineResult, ExperienceResult, TargetAudit
from exml.runs.student_plan import StudentPlan, plan_student

KEPT = 256 * MEGABYTE
"""Most bytes of state dicts that stay in memory between two readings."""


@attrs.frozen(kw_only=True)
class LabelChoices:
    """What a user decides about the labels and the images of a student; see :func:`exml.experts.plan_labels`.

    Args:
        rename: label to label for all experts, or expert to such a mapping.
        keep: for an expert, its only labels to be learned.
        drop: for an expert, its labels not to be learned.
        image_shape: ``(channels, height, width)`` of the student's images.
        plan: a plan in place of all of these.
    """

    rename: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    keep: Mapping[str, Sequence[str]] = attrs.field(factory=dict[str, Sequence[str]])
    drop: Mapping[str, Sequence[str]] = attrs.field(factory=dict[str, Sequence[str]])
    image_shape: tuple[int, int, int] | None = None
    plan: LabelPlan | None = None

    def __attrs_post_init__(self) -> None:
        if self.plan is not None and (self.rename or self.keep or self.drop or self.image_shape):
            expected = "a plan, or renamed, kept and dropped labels and an image shape"
            raise SettingError(expected=expected, got="both", remedy="edit the plan instead")

    def labels(self, cards: Mapping[str, ExpertCard], *, complete: bool) -> LabelPlan:
        """The plan for some experts; ``complete`` if no others will arrive."""
        if self.plan is None:
            kept, dropped, shape = self.keep, self.drop, self.image_shape
            return plan_labels(cards, rename=self.rename, keep=kept, drop=dropped, image_shape=shape)
        absent = [name for name in self.plan.experts if name not in cards]
        if absent and complete:
            raise SettingError(
                expected=f"a plan for the experts {', '.join(cards)}",
                got=f"one that lists {', '.join(map(repr, absent))}",
                remedy="remove these from the plan, or make another one with exml plan",
            )
        return _extended(self.plan, cards)

    def text(self) -> str:
        """The choices in a line, to be compared when a run resumes; empty without any."""
        made = attrs.asdict(self, recurse=False, filter=lambda field, value: bool(value) and field.name != "plan")
        if self.plan is not None:
            made["plan"] = hashlib.sha256(self.plan.to_yaml().encode()).hexdigest()
        return json.dumps(made, sort_keys=True) if made else ""


@attrs.frozen
class ScenarioExperts:
    """The experts of a scenario: the run trains them, and evaluates students and baselines on the scenario's test sets.

    Args:
        name: one of :func:`exml.scenarios.names`.
        split: the images that accuracies are measured on; ``"validation"`` reads no test image.
        folder: the folder of the experts, ``OUT/experts`` by default. Runs of one scenario and seed may share it, also
            at the same time: the first trains, the others wait and load.
        baselines: whether to evaluate the baselines. They are the same for all runs of one scenario and seed.
        start: whether the learner knows the initial weights of the experts, which are the same for all. If they are
            ``"unknown"``, it compares the experts with each other.
    """

    name: str
    split: scenarios.Split = "test"
    folder: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path))
    baselines: bool = True
    start: Literal["known", "unknown"] = "known"

    def open(self, seed: int, out: Path | None, _stop: Stop, _begun: Record | None) -> OpenExperts:
        """Load the scenario; an UnknownNameError or a DataError says why it cannot be loaded.

        :meta private:
        """
        return _OpenScenario(self, seed, out)


@attrs.frozen
class FolderExperts:
    """A folder of experts in any format, in the order of their cards or names.

    A folder has no test data, so the run measures no accuracy.

    Args:
        folder: path of the folder.
        follow: keep learning from experts that arrive in the folder until the run is stopped. The run refuses an expert
            that the student cannot learn from and continues; it waits for files that are incomplete.
        poll: seconds between two looks at a followed folder.
        student: name and settings of the student's architecture in :mod:`exml.models`; missing ``channels``,
            ``classes`` and ``image_size`` are filled in. By default that of the first expert, or a conv-net for images
            of up to 64 pixels.
        labels: what becomes of the labels of the experts.
        trust: whether to read formats that execute code when they are loaded.
    """

    folder: Path = attrs.field(converter=Path)
    follow: bool = False
    poll: float = attrs.field(default=1.0, validator=in_range(0, open_low=True))
    student: Mapping[str, Any] | None = None
    labels: LabelChoices = LabelChoices()
    trust: bool = False

    def open(self, seed: int, out: Path | None, stop: Stop, begun: Record | None) -> OpenExperts | None:
        """Read all metadata, which an ExmlError may refuse; None if the wait for a first expert was stopped.

        :meta private:
        """
        if out is not None and out.resolve().is_relative_to(self.folder.resolve()):
            expected = f"an output folder outside of the experts in {self.folder}"
            raise SettingError(expected=expected, got=str(out), remedy="choose another folder for the output")
        if self.student is not None:
            models.settings(self.student["name"])  # an unknown name is an error before any wait
        cards, found = dict[str, ExpertCard](), dict[str, Entry]()
        if not self.follow:
            cards, found, faults = read_folder(self.folder)
            if faults:
                raise FolderError([f"{name}: {fault}" for name, fault in faults.items()])
        if begun is not None or cards:
            opened = self.opened(cards, found, seed, begun)
        else:
            watcher = FolderWatcher(self.folder, (), None, stop, poll=self.poll, trust=self.trust)
            planned = watcher.plan(lambda cards: _planned(self, seed, cards, None))
            if planned is None:
                return None
            cards, plans = planned
            opened = self._opened(cards, {}, *plans)
        if self.follow:
            opened.watch = lambda done, first: FolderWatcher(
                self.folder, done, first, stop, poll=self.poll, trust=self.trust
            )
            opened.on_close = stop.ask
        return opened

    def opened(
        self, cards: Mapping[str, ExpertCard], found: Mapping[str, Entry], seed: int, begun: Record | None = None
    ) -> OpenExperts:
        """These experts of the folder, with a plan, or with that of the run to resume.

        :meta private:
        """
        return self._opened(cards, found, *_planned(self, seed, cards, begun))

    def _opened(
        self, cards: Mapping[str, ExpertCard], found: Mapping[str, Entry], plan: StudentPlan, labels: LabelPlan
    ) -> OpenExperts:
        kept: dict[str, ExpertFiles] = {}  # a process of its own reads a state dict, which takes seconds

        def read(name: str) -> ExpertFiles:
            if name in kept:
                return kept[name]
            files = read_expert(found.get(name, self.folder / name), trust=self.trust)
            if name in found and found[name].format == "state-dict":
                kept[name] = files
                if sum(tensor.nbytes for one in kept.values() for tensor in (one.weights or {}).values()) > KEPT:
                    del kept[name]
            return files

        opened = OpenExperts(self.folder.name, plan, labels, cards, read)
        opened.asked = {"student": plan, "label_choices": self.labels.text()}
        opened.folder = self.folder
        return opened


@attrs.frozen(eq=False)
class LiveExpert:
    """An expert in memory, with the metadata that a card would have."""

    name: str
    card: ExpertCard
    live: Expert = attrs.field(repr=False)

    def expert(self) -> Expert:
        """The expert itself."""
        return self.live


@attrs.frozen(eq=False)
class LiveExperts:
    """Experts in memory or on disk, in the order of the stream. A run resumes if it is given the same experts again.

    Args:
        experts: experts, or paths in any format. Equal names get a number.
        student: as for :class:`FolderExperts`.
        labels: as for :class:`FolderExperts`.
    """

    experts: Sequence[Expert | Path | str]
    student: Mapping[str, Any] | None = None
    labels: LabelChoices = LabelChoices()

    def open(self, seed: int, out: Path | None, _stop: Stop, begun: Record | None) -> OpenExperts:
        """Read all metadata; an ExmlError may refuse them.

        :meta private:
        """
        items: dict[str, LiveExpert | Path] = {}
        cards: dict[str, ExpertCard] = {}
        names = [one.name if isinstance(one, Expert) else entry_of(one).name for one in self.experts]
        for place, (one, name) in enumerate(zip(self.experts, names, strict=True), 1):
            key = name if names.count(name) == 1 else f"{name}-{place}"
            if isinstance(one, Expert):
                cards[key] = _live_card(one)
                items[key] = LiveExpert(key, cards[key], one)
            else:
                cards[key], items[key] = read_card(one), Path(one)
        if not cards:
            raise StreamError(expected="at least one expert", got="none", remedy="give a folder or a list of experts")
        plan, labels = _planned(self, seed, cards, begun)

        def read(name: str) -> LiveExpert | ExpertFiles:
            item = items[name]
            return item if isinstance(item, LiveExpert) else attrs.evolve(read_expert(item), name=name)

        opened = OpenExperts("experts", plan, labels, cards, read)
        prints = {name: card.sha256 for name, card in cards.items()}
        opened.asked = {"student": plan, "label_choices": self.labels.text(), "experts": prints}
        return opened


class OpenExperts:
    """Experts whose metadata were read, and the plan of a student for them.

    Args:
        title: of figures.
        plan: of the student before the first expert.
        labels: of the student, and the labels of each expert.
        cards: of the experts that are there, in order.
        read: reads an expert by name, in any thread, without building it.
    """

    tests: tuple[ExperienceResult, ...] = ()
    shared_test: bool = False
    folder: Path | None = None
    watch: Callable[[Sequence[str], str | None], FolderWatcher] | None = None
    """Watches for more experts, given the names of those that were learned and of the one in progress."""
    on_close: Callable[[], None] | None = None
    asked: Mapping[str, Any]
    """The fields of the request of a run."""

    def __init__(
        self,
        title: str,
        plan: StudentPlan,
        labels: LabelPlan,
        cards: Mapping[str, ExpertCard],
        read: Callable[[str], ExpertFiles | LiveExpert],
    ) -> None:
        self.title, self.plan, self.labels, self.cards, self.read = title, plan, labels, cards, read
        self._watcher: FolderWatcher | None = None

    def open(self, _seed: int, _out: Path | None, _stop: Stop, _begun: Record | None) -> OpenExperts:
        """These experts: they are open."""
        return self

    @property
    def names(self) -> list[str] | None:
        """The experts of the stream; None if more may arrive."""
        return None if self.watch is not None else list(self.cards)

    def make_student(self, seed: int) -> Normalized:
        """The student with its initial weights."""
        return self.plan.make(seed)

    def start(self, _seed: int) -> State | None:
        """The initial weights of the experts, if they are known."""
        return None

    def example(self) -> Expert:
        """An expert of the stream, trained or not, to time a strategy with."""
        return self.loads(list(self.cards)[:1])[0]()

    def profile(self) -> ExpertProfile:
        """The profile of the experts that the student will see, for recipes; a FolderError lists unreadable experts."""
        faults: list[str] = []

        def each() -> Generator[Expert]:
            for name, load in zip(self.cards, self.loads(list(self.cards)), strict=True):
                try:
                    expert = load()
                except ExmlError as error:
                    faults.append(f"{name}: {error}")
                else:
                    yield expert

        experts = each()
        try:
            profile = ExpertProfile.from_experts(experts)
        except StreamError:
            raise FolderError(faults) from None
        if faults and self.names is not None:
            raise FolderError(faults)
        return attrs.evolve(profile, open_ended=True)

    def check(self, strategy: Strategy) -> None:
        """Refuse a strategy that reads the experts' data, or whose buffer is too small for the stream."""
        if uses_real_data(strategy):
            raise SettingError(
                expected="a strategy that learns without the data of the experts",
                got="one that reads it",
                remedy="choose another one of 'exml strategies', or give a file",
            )
        if self.names is not None:
            share_of(strategy.buffer, len(self.names))

    def prepare(self, _seed: int, _device: torch.device, _tell: Observer, _ranks: Ranks) -> None:
        """Train the experts, unless they exist."""

    def remaining(self, done: Sequence[str], begun: Sequence[str]) -> Iterator[ExpertFiles | LiveExpert | Refused]:
        """The experts that are left, read, with the one in progress first; a followed folder waits for more."""
        if self.watch is not None:
            self._watcher = self.watch(done, next(iter(begun), None))
            return self._watcher
        left, learned = dict.fromkeys([*begun, *self.cards]), set(done)
        return map(self.read, [name for name in left if name not in learned])

    def admitted(self, name: str, card: ExpertCard, expert: Expert) -> Expert:
        """An expert in its turn, with class ids and images of the student; the label plan grows if it has new labels.

        Raises:
            ExmlError: the expert contradicts the plan.
        """
        self.labels = self.labels.admit(name, card)
        return self.labels.apply(name, expert)

    def relabel(self, labels: LabelPlan | None) -> None:
        """Continue with the label plan of a run, which may have more experts."""
        if labels is not None:
            self.labels = _extended(labels, self.cards)

    def loads(self, names: Sequence[str]) -> list[Callable[[], Expert]]:
        """Functions that load experts of the plan, as the student sees them."""

        def load(name: str) -> Expert:
            return self.labels.apply(name, self.read(name).expert())

        return [partial(load, name) for name in names if name in self.cards]

    def length(self, done: Sequence[str]) -> int | None:
        """The length of the stream; None if it is unknown."""
        return None if self.names is None else len({*done, *self.names})

    def memory(self, strategy: Strategy, seed: int) -> int:
        """Bytes that a run will take; see :func:`exml.runs.forecast.memory`."""
        return memory(strategy, self.example(), self.make_student(seed), experts=self.length(()) or 1)

    def refuse(self, name: str) -> None:
        """Mark an expert as refused."""
        if self._watcher is not None:
            self._watcher.refuse(name)

    def close(self) -> None:
        """End the wait for more experts."""
        if self._watcher is not None and self.on_close is not None:
            self.on_close()

    def evaluate(self, _student: torch.nn.Module, _ranks: Ranks) -> Evaluation | None:
        """Evaluate the student on the test sets, if there are any."""
        return None

    def evaluate_baselines(self, _device: torch.device, _tell: Observer) -> tuple[BaselineResult, ...]:
        """Evaluate the baselines, if there are test sets and the source includes baselines."""
        return ()

    def audit(self, _learner: Learner, _student: float) -> TargetAudit | None:
        """Evaluate the targets of a learner, whose student has this stream accuracy, if there are test sets."""
        return None


Source: TypeAlias = ScenarioExperts | FolderExperts | LiveExperts | OpenExperts


class _OpenScenario(OpenExperts):
    """A loaded scenario, whose experts become a folder, and whose test sets students are evaluated on."""

    def __init__(self, source: ScenarioExperts, seed: int, out: Path | None) -> None:
        self._baselines, self._start = source.baselines, source.start
        self._scenario = scenario = scenarios.load(source.name, seed, source.split)
        self._experts = ExpertStream(())
        self._references: References | None = None
        plan = StudentPlan(scenario.architecture, scenario.classes, scenario.image_shape, scenario.mean, scenario.std)
        labels = LabelPlan(scenario.image_shape, {}, None, scenario.classes, scenario.mean, scenario.std)
        self.folder = folder = source.folder or (out or Path()) / "experts"
        super().__init__(
            f"{source.name}, seed {seed}", plan, labels, {}, lambda name: read_expert(folder / f"{name}.json")
        )
        self.asked = {"scenario": source.name, "split": source.split, "start": source.start}
        self.tests = tuple(
            ExperienceResult(index=part.index, classes=part.classes, task=part.task, images=len(part.test))
            for part in scenario.experiences
        )
        self.shared_test = scenario.shared_test

    @property
    def names(self) -> list[str]:
        return [f"expert-{test.index}" for test in self.tests]

    def make_student(self, seed: int) -> Normalized:
        return self._scenario.make_student(seed)

    def start(self, seed: int) -> State | None:
        return self._scenario.make_module(seed, "experts").state_dict() if self._start == "known" else None

    def example(self) -> Expert:
        scenario, first = self._scenario, self._scenario.experiences[0]
        module = scenario.make_module(0, "experts")
        return untrained_expert(module, first.train, mean=scenario.mean, std=scenario.std, task=first.task)

    def profile(self) -> ExpertProfile:
        return self._scenario.profile()

    def check(self, strategy: Strategy) -> None:
        share_of(strategy.buffer, len(self.tests))

    def prepare(self, seed: int, device: torch.device, tell: Observer, ranks: Ranks) -> None:
        assert self.folder is not None

        def report(done: int, total: int) -> None:
            tell(ExpertsProgress(done, total))

        report(0, len(self.tests) * self._scenario.training.epochs)
        with ExitStack() as stack:
            if ranks.leader:
                stack.enter_context(lock(self.folder, partial(tell, WaitingForProcess(self.folder))))
            ranks.wait()
            self._experts = self._scenario.train_experts(seed, self.folder, device=device, progress=report, ranks=ranks)
            self.cards = {name: read_card(self.folder / f"{name}.json") for name in self.names}

    def admitted(self, name: str, card: ExpertCard, expert: Expert) -> Expert:
        return expert

    def loads(self, names: Sequence[str]) -> list[Callable[[], Expert]]:
        return [lambda name=name: self.read(name).expert() for name in names]

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

    def audit(self, learner: Learner, student: float) -> TargetAudit:
        device = learner.device
        if self._references is None:
            self._references = references(self._experts, self._scenario, device)
        about: Any = {"seed": learner.seed, "device": device, "start": learner.start}
        return audit(learner.strategy, self._experts, self._scenario, student, self._references, **about)


def _planned(
    source: FolderExperts | LiveExperts, seed: int, cards: Mapping[str, ExpertCard], begun: Record | None
) -> tuple[StudentPlan, LabelPlan]:
    """The plans of a student; those of the run to resume, extended by new experts, if there is one."""
    if begun is not None and begun.request.student is not None and begun.labels is not None:
        begun.request.student.require_same(source.student)
        begun.request.student.make(seed)
        return begun.request.student, _extended(begun.labels, cards)
    complete = not (isinstance(source, FolderExperts) and source.follow)
    labels = source.labels.labels(cards, complete=complete)
    return plan_student(labels, source.student, next(iter(cards.values())), seed), labels


def _extended(labels: LabelPlan, cards: Mapping[str, ExpertCard]) -> LabelPlan:
    for name, card in cards.items():
        labels = labels.admit(name, card)
    return labels


def _live_card(expert: Expert) -> ExpertCard:
    try:
        architecture = models.describe(expert.module)
    except ExmlError:
        architecture = None
    return ExpertCard(**metadata(expert), architecture=architecture, sha256=expert.fingerprint())
