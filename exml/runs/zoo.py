"""Zoos: the experts of several scenarios and seeds, one folder per stream; their training and evaluation."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs
import torch
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from exml import scenarios
from exml.baselines import Oracle
from exml.core.errors import ExmlError, ExpertError, RankError, SettingError, StreamError, UnknownNameError
from exml.core.files import write_json
from exml.core.registry import component
from exml.core.serialization import to_plain
from exml.experts import ExpertCard, ExpertStream, load_expert, read_card
from exml.experts.card import card_checksum
from exml.experts.entries import natural
from exml.learning.events import JobEnded, JobProgress, JobsStarted, Observer, WaitingForProcess
from exml.runs.environment import cores, device_of
from exml.runs.evaluation import BASELINES, accuracy, baseline_result
from exml.runs.executors import LocalProcesses
from exml.runs.folder_lock import lock
from exml.runs.jobs import Ended, Failure, Job, Report, Resources, ThisProcess, to_all
from exml.runs.result import BaselineResult
from exml.scenarios import Experience, Split


def stream_folder(scenario: str, seed: int) -> str:
    """The folder of a stream in a zoo; characters other than word characters, ``.`` and ``-`` become ``-``.

    >>> from exml.runs import stream_folder
    >>> stream_folder("mnist-nc:epochs=4", 0)
    'mnist-nc-epochs-4-0'
    """
    return re.sub(r"[^\w.-]", "-", f"{scenario}-{seed}")


def train_zoo(
    names: Sequence[str],
    zoo: Path | str,
    *,
    seeds: Sequence[int] = (0,),
    workers: int | None = None,
    device: str = "cpu",
    observers: Sequence[Observer] = (),
) -> tuple[Path, ...]:
    """Train the experts of scenarios with several seeds, several experts at a time, and save them with their cards.

    Each stream gets a folder, ``ZOO/SCENARIO-SEED/``, with ``expert-N.json`` and ``expert-N.safetensors``. The card has
    the accuracy on the validation images of the expert's own classes. The same call resumes a zoo that was killed; an
    interrupted expert loses at most ten seconds. Each expert is trained on one CPU thread, so the number of workers
    does not change its bits. An expert that fails does not stop the others.

    Args:
        names: scenarios as in :func:`exml.scenarios.load`, optionally with settings after a colon.
        zoo: the folder; created if necessary.
        seeds: of the scenario, the initial weights and the training.
        workers: number of experts at a time, each in a process of its own with the data of its scenario; by default the
            number of cores, or 1 on another device. A single worker is this process.
        device: where to train, as torch names it; ``"auto"`` is an accelerator if there is one.
        observers: called with the progress of each expert in epochs.

    Returns:
        The folder of each stream, scenario by scenario.

    Raises:
        SettingError: a number out of range, a scenario or seed given twice, or an invalid setting of the training.
        UnknownNameError: an unknown scenario.
        DataError: the data of a scenario are missing.
        CheckpointError: a folder cannot be written.
        NonFiniteError: the training of an expert diverged.
        RankError: a worker died.
    """
    zoo = Path(zoo)
    _require_once(names, "a scenario")
    _require_once(seeds, "a seed")
    if (workers is not None and workers < 1) or min(seeds) < 0:
        got = f"{workers} worker(s), seeds {', '.join(map(str, seeds))}"
        raise SettingError(expected="at least 1 worker, and seeds >= 0", got=got, remedy="correct them")
    place = str(device_of(device))
    trainings: dict[str, Callable[[Report], None]] = {}
    for name, seed in itertools.product(names, seeds):
        folder = zoo / stream_folder(name, seed)
        for number, experience in enumerate(scenarios.load(name, seed, "validation").experiences):
            training = partial(_train, name, seed, number, folder, place)
            trainings[f"{folder.name}/expert-{experience.index}"] = training
    folders = tuple(zoo / stream_folder(name, seed) for name, seed in itertools.product(names, seeds))
    at_once = min(len(trainings), workers or (cores() if place == "cpu" else 1))
    failures, emit = list[Failure](), to_all(observers)

    def tell(told: JobProgress | Ended) -> None:
        if isinstance(told, JobProgress):
            emit(told)
        elif told.failure is not None:
            failures.append(told.failure)
            emit(JobEnded(told.name, error=told.failure.message))
        else:
            reached = read_card(zoo / f"{told.name}.json").accuracy
            emit(JobEnded(told.name, "" if reached is None else f"{reached:.1%} on its validation images"))

    with ExitStack() as stack:
        for folder in folders:
            stack.enter_context(lock(folder, partial(emit, WaitingForProcess(folder))))
        emit(JobsStarted(tuple(trainings), len(trainings)))
        logs = Path(stack.enter_context(TemporaryDirectory()))
        jobs = [Job(name, training, logs / f"{name}.txt") for name, training in trainings.items()]
        executor = ThisProcess() if at_once == 1 else LocalProcesses(at_once, isolate_gpus=False)
        executor(jobs, Resources(), tell)
    for failure in failures:
        raise failure.error or RankError(
            expected="processes that finish their experts",
            got=failure.message,
            remedy="use fewer workers if memory is short; the same call resumes this one",
        )
    return folders


def _train(name: str, seed: int, number: int, folder: Path, device: str, report: Report) -> None:
    """Train one expert of a scenario."""
    scenario = scenarios.load(name, seed, "validation")  # every split has the same training images
    alone = attrs.evolve(scenario, experiences=scenario.experiences[number : number + 1])
    alone.train_experts(seed, folder, device=device, progress=report, validation=alone)


def _require_once(values: Sequence[object], what: str) -> None:
    twice = sorted({str(value) for value in values if values.count(value) > 1})
    if twice or not values:
        got = f"{', '.join(twice)} more than once" if twice else "none"
        raise SettingError(expected=f"{what}, or several, each once", got=got, remedy=f"name each {what[2:]} once")


@component
@attrs.frozen(kw_only=True)
class ExpertEvaluation:
    """One expert of a zoo.

    Args:
        name: of its files.
        classes: global ids of its classes.
        images: number of images of its own classes.
        accuracy: on them, among its own classes; None if the expert is faulty.
        fault: what is wrong with it.
    """

    name: str
    classes: tuple[int, ...] = ()
    images: int = 0
    accuracy: float | None = None
    fault: str | None = None


@component
@attrs.frozen(kw_only=True)
class StreamEvaluation:
    """The experts of one scenario and seed.

    Args:
        folder: its name in the zoo.
        scenario: with its settings; None if no card states it.
        seed: of the scenario and the training.
        experts: in their order.
        baselines: of all experts together; none if an expert is faulty.
    """

    folder: str
    scenario: str | None = None
    seed: int | None = None
    experts: tuple[ExpertEvaluation, ...] = ()
    baselines: tuple[BaselineResult, ...] = ()


@component
@attrs.frozen(kw_only=True)
class ZooEvaluation:
    """All streams of a zoo; ``evaluation.json`` is this class as JSON.

    Args:
        split: the images that the accuracies are measured on.
        streams: by name, with 2 before 10.
    """

    split: Split
    streams: tuple[StreamEvaluation, ...]

    @property
    def faults(self) -> dict[str, str]:
        """The faults of experts, by folder and name."""
        every = ((stream.folder, expert) for stream in self.streams for expert in stream.experts)
        return {f"{folder}/{expert.name}": expert.fault for folder, expert in every if expert.fault is not None}


def evaluate_zoo(
    zoo: Path | str,
    *,
    split: Split = "test",
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> ZooEvaluation:
    """Evaluate each expert on its own classes and the baselines on all classes, and write ``evaluation.json``.

    The SHA-256 of all weights is checked. Damaged and missing files are named in the result; the others are evaluated.

    Args:
        zoo: a folder made by :func:`train_zoo`.
        split: the images that the accuracies are measured on.
        device: where to run, as torch names it; ``"auto"`` is an accelerator if there is one.
        progress: called with the number of streams done and the total.

    Raises:
        StreamError: no folder of the zoo holds experts.
        ExmlError: an invalid split or device, or a scenario whose data are missing.
    """
    zoo, found = Path(zoo), dict[Path, list[str]]()
    for folder in sorted(zoo.glob("[!.]*/"), key=lambda path: natural(path.name)):
        files = (path for path in folder.glob("expert-*") if path.suffix in (".json", ".safetensors"))
        if names := sorted({path.stem for path in files}, key=natural):
            found[folder] = names
    if not found:
        got = "none" if zoo.is_dir() else "no such folder"
        remedy = "check the path; 'exml experts train' creates them"
        raise StreamError(expected=f"folders of experts in {zoo}", got=got, remedy=remedy)
    place, streams = device_of(device), list[StreamEvaluation]()
    for folder, names in found.items():
        streams.append(_stream(folder, names, split, place))
        if progress is not None:
            progress(len(streams), len(found))
    evaluation = ZooEvaluation(split=split, streams=tuple(streams))
    write_json(zoo / "evaluation.json", to_plain(evaluation))
    return evaluation


def _stream(folder: Path, names: list[str], split: Split, device: torch.device) -> StreamEvaluation:
    origins: dict[str, tuple[str, int] | None] = {}
    faults: dict[str, str] = {}
    for name in names:
        try:
            origins[name] = _origin(read_card(folder / f"{name}.json"))
        except ExpertError as error:
            faults[name] = str(error)
    origin, scenario = next(filter(None, origins.values()), None), None
    unknown = "its card does not state the scenario and the seed of its training"
    try:
        scenario = None if origin is None else scenarios.load(*origin, split)
    except (UnknownNameError, SettingError) as error:
        unknown = str(error)
    if origin is None or scenario is None:
        experts = tuple(ExpertEvaluation(name=name, fault=faults.get(name, unknown)) for name in names)
        return StreamEvaluation(folder=folder.name, experts=experts)
    own, baselines = list[ExpertEvaluation](), tuple[BaselineResult, ...]()
    for experience in scenario.experiences:
        name = f"expert-{experience.index}"
        fault = faults.get(name)
        if origins.get(name, origin) != origin:
            fault = f"it was trained on {origins[name]}, another expert of the stream on {origin}"
        elif name not in names:
            fault = "its files are missing"
        own.append(_expert(folder / f"{name}.json", experience, scenario.classes, device, fault))
    if all(expert.fault is None for expert in own):
        stream = ExpertStream([partial(load_expert, folder / f"{expert.name}.json") for expert in own])
        baselines = tuple(baseline_result(baseline, stream, scenario, device) for baseline in BASELINES)
    name, seed = origin
    return StreamEvaluation(folder=folder.name, scenario=name, seed=seed, experts=tuple(own), baselines=baselines)


def _origin(card: ExpertCard) -> tuple[str, int] | None:
    """The scenario and the seed that a card states."""
    name, seed = card.training.get("scenario"), card.training.get("seed")
    return (name, seed) if isinstance(name, str) and isinstance(seed, int) else None


def _expert(
    path: Path, experience: Experience, classes: int, device: torch.device, fault: str | None
) -> ExpertEvaluation:
    if fault is None:
        try:
            expert, card = load_expert(path), read_card(path)
            if card.training.get("checksum") not in (None, card_checksum(card)):
                fault = "its card was changed after the training"
            elif expert.classes == experience.classes:
                test = experience.test.to(device)
                predict = Oracle()(ExpertStream.from_experts([expert.to(device)]), classes)
                right = accuracy(predict, test, torch.zeros_like(test.labels))
                return ExpertEvaluation(name=path.stem, classes=expert.classes, images=len(test), accuracy=right)
            else:
                fault = f"it knows the classes {expert.classes}, its experience has {experience.classes}"
        except ExmlError as error:
            fault = str(error)
    return ExpertEvaluation(name=path.stem, classes=experience.classes, fault=fault)


def zoo_table(evaluation: ZooEvaluation) -> Group:
    """Two tables in percent: each expert of a stream on its own classes, and the baselines on all classes.

    The reasons for missing accuracies are in :attr:`ZooEvaluation.faults`.
    """
    longest = max(len(stream.experts) for stream in evaluation.streams)
    own = _table([f"e{place}" for place in range(1, longest + 1)])
    together = _table(BASELINES)
    for stream in evaluation.streams:
        own.add_row(stream.folder, *("fault" if one.fault else _percent(one.accuracy) for one in stream.experts))
        accuracies = {row.name: row.stream_accuracy for row in stream.baselines}
        together.add_row(stream.folder, *(_percent(accuracies.get(name)) for name in BASELINES))
    return Group(
        Text(f"Each expert on the {evaluation.split} images of its own classes, %", style="bold"),
        own,
        Text(f"\nAll experts of a stream on all {evaluation.split} images, %", style="bold"),
        together,
    )


def _table(columns: Iterable[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("stream", overflow="fold")
    for column in columns:
        table.add_column(column.replace(" ", "\n"), justify="right", vertical="bottom", min_width=5)
    return table


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f}"
