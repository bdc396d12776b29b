"""Zoos: the experts of several scenarios and seeds, one folder per stream. ``exml experts train`` makes them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs

from exml import scenarios
from exml.core.errors import RankError, SettingError
from exml.experts import read_card
from exml.learning.events import Event, JobEnded, JobProgress, JobsStarted, Observer, WaitingForProcess
from exml.runs.environment import cores, device_of
from exml.runs.folder_lock import lock
from exml.runs.jobs import Ended, Failure, Job, Report, Resources, ThisProcess
from exml.runs.local_processes import LocalProcesses


@attrs.frozen
class _Training:
    """One expert as plain data, for whichever process trains it."""

    scenario: str
    seed: int
    number: int
    index: int
    folder: Path
    device: str

    @property
    def name(self) -> str:
        return f"{self.folder.name}/expert-{self.index}"

    def run(self, report: Report) -> None:
        scenario = scenarios.load(
            self.scenario, self.seed, "validation"
        )  # the split does not change the training images
        alone = attrs.evolve(scenario, experiences=scenario.experiences[self.number : self.number + 1])
        alone.train_experts(self.seed, self.folder, device=self.device, progress=report, validation=alone)


def stream_folder(scenario: str, seed: int) -> str:
    """The folder of a stream in a zoo; characters other than word characters, ``.`` and ``-`` become ``-``.

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
    the accuracy on the validation images of the expert's own classes. The same call resumes a zoo that was killed:
    finished experts are not trained again, and an interrupted one loses at most ten seconds. Each expert is trained on
    one CPU thread, so the number of workers does not change its bits. An expert that fails does not stop the others.

    Args:
        names: scenarios as in :func:`exml.scenarios.load`, optionally with settings after a colon.
        zoo: the folder; created if necessary.
        seeds: of the scenario, the initial weights and the training.
        workers: number of experts at a time, each in a process of its own, which also holds the data of its scenario;
            by default the number of cores, or 1 on another device. A single worker is this process.
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
        raise SettingError(
            expected="at least 1 worker, and seeds >= 0",
            got=f"{workers} worker(s), seeds {', '.join(map(str, seeds))}",
            remedy="correct them",
        )
    place = str(device_of(device))
    trainings = {one.name: one for name in names for seed in seeds for one in _trainings(name, seed, zoo, place)}
    folders = tuple(dict.fromkeys(training.folder for training in trainings.values()))
    at_once = min(len(trainings), workers or (cores() if place == "cpu" else 1))
    failures: list[Failure] = []

    def emit(event: Event) -> None:
        for observer in observers:
            observer(event)

    def tell(told: JobProgress | Ended) -> None:
        if isinstance(told, JobProgress):
            emit(told)
        elif told.failure is not None:
            failures.append(told.failure)
            emit(JobEnded(told.name, error=told.failure.message))
        else:
            training = trainings[told.name]
            accuracy = read_card(training.folder / f"expert-{training.index}.json").accuracy
            emit(JobEnded(told.name, "" if accuracy is None else f"{accuracy:.1%} on its validation images"))

    with ExitStack() as stack:
        for folder in folders:
            stack.enter_context(lock(folder, partial(emit, WaitingForProcess(folder))))
            for part in folder.glob(".*.part"):  # half-written files of a killed process
                part.unlink(missing_ok=True)
        emit(JobsStarted(tuple(trainings), len(trainings)))
        logs = Path(stack.enter_context(TemporaryDirectory()))
        jobs = [
            Job(name, partial(_Training.run, training), logs / f"{name}.txt") for name, training in trainings.items()
        ]
        executor = ThisProcess() if at_once == 1 else LocalProcesses(at_once, isolate_gpus=False)
        executor(jobs, Resources(), tell)
    for failure in failures:
        raise failure.error or RankError(
            expected="processes that finish their experts",
            got=failure.message,
            remedy="use fewer workers if memory is short; the same call resumes this one",
        )
    return folders


def _require_once(values: Sequence[object], what: str) -> None:
    twice = sorted({str(value) for value in values if values.count(value) > 1})
    if twice or not values:
        raise SettingError(
            expected=f"{what}, or several, each once",
            got=f"{', '.join(twice)} more than once" if twice else "none",
            remedy=f"name {what}" if not values else "remove the repetition",
        )


def _trainings(name: str, seed: int, zoo: Path, device: str) -> list[_Training]:
    scenario = scenarios.load(name, seed, "validation")  # raises before any work begins
    folder = zoo / stream_folder(name, seed)
    return [
        _Training(name, seed, number, part.index, folder, device) for number, part in enumerate(scenario.experiences)
    ]
