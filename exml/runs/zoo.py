"""The experts of scenarios and seeds, each stream in a folder of its own: what ``exml experts train`` does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import attrs

from exml import scenarios
from exml.core.errors import ExmlError, SettingError
from exml.experts import read_card
from exml.learning.events import WaitingForProcess
from exml.runs._pool import Tell, share_out
from exml.runs.environment import cores, device_of
from exml.runs.folder_lock import lock
from exml.runs.zoo_events import ExpertTrained, ZooEvent, ZooObserver, ZooStarted


@attrs.frozen
class _Job:
    """One expert as plain data, for whichever process trains it."""

    scenario: str
    seed: int
    number: int
    index: int
    epochs: int
    folder: Path
    device: str


def stream_folder(scenario: str, seed: int) -> str:
    """The folder of a stream in a zoo: what is neither a word character nor ``.`` or ``-`` is replaced by ``-``.

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
    observers: Sequence[ZooObserver] = (),
) -> tuple[Path, ...]:
    """Train the experts of scenarios with several seeds, several at a time, and save them with their cards.

    Each stream gets a folder, ``ZOO/SCENARIO-SEED/``, with ``expert-N.json`` and ``expert-N.safetensors``; the accuracy
    on a card is on the validation images of the expert's own classes. An expert that is there is not trained again, and
    one that was killed half-way goes on from at most ten seconds before: the same call goes on where it ended. Each
    expert is trained on one thread of the CPU, so the same call gives the same bits there, whatever the number of
    workers. One that fails does not end the others.

    Args:
        names: scenarios, as :func:`exml.scenarios.load` knows them, also with settings after a colon.
        zoo: the folder; made if need be.
        seeds: of the scenario, the initial weights and the training.
        workers: experts at a time, each in a process of its own; by default as many as there are cores, on another
            device one. A script that asks for several needs the ``if __name__ == "__main__":`` of any that starts
            processes. Each process holds the data of its scenario.
        device: where to train, as torch names it; ``"auto"`` is an accelerator if there is one.
        observers: told of every epoch, and when another process has to be waited for.

    Returns:
        The folder of each stream, scenario by scenario.

    Raises:
        SettingError: a number below its least, a name or a seed twice, or a setting that no expert can have.
        UnknownNameError: there is no such scenario.
        DataError: the data of a scenario are not there.
        CheckpointError: a folder cannot be written.
        NonFiniteError: the training of an expert diverged.
        RankError: a worker died.
    """
    zoo = Path(zoo)
    _require_once(names, "a scenario")
    _require_once(seeds, "a seed")
    if (workers is not None and workers < 1) or min(seeds) < 0:
        raise SettingError(
            expected="at least 1 worker, and seeds from 0",
            got=f"{workers} worker(s), seeds {', '.join(map(str, seeds))}",
            remedy="correct them",
        )
    place = str(device_of(device))
    jobs = [job for name in names for seed in seeds for job in _jobs(name, seed, zoo, place)]
    folders = tuple(dict.fromkeys(job.folder for job in jobs))
    errors: list[ExmlError] = []

    def say(event: ZooEvent) -> None:
        for observer in observers:
            observer(event)

    def tell(place: int, said: int | ExmlError | None) -> None:
        job = jobs[place]
        told = partial(ExpertTrained, job.folder.name, job.index)
        match said:
            case int():
                say(told(said, job.epochs))
            case None:
                card = read_card(job.folder / f"expert-{job.index}.json")
                say(told(job.epochs, job.epochs, over=True, accuracy=card.accuracy))
            case _:
                errors.append(said)
                say(told(0, job.epochs, over=True, error=said))

    with ExitStack() as stack:
        for folder in folders:
            stack.enter_context(lock(folder, lambda folder=folder: say(WaitingForProcess(folder))))
            for part in folder.glob(".*.part"):  # what a killed process left half-written
                part.unlink(missing_ok=True)
        say(ZooStarted(len(jobs), sum(job.epochs for job in jobs)))
        share_out(_train, jobs, workers or (cores() if place == "cpu" else 1), tell)
    if errors:
        raise errors[0]
    return folders


def _require_once(values: Sequence[object], what: str) -> None:
    twice = sorted({str(value) for value in values if values.count(value) > 1})
    if twice or not values:
        raise SettingError(
            expected=f"{what}, or several, each once",
            got=f"{', '.join(twice)} more than once" if twice else "none",
            remedy="say which",
        )


def _jobs(name: str, seed: int, zoo: Path, device: str) -> list[_Job]:
    scenario = scenarios.load(name, seed, "validation")  # its faults come before any work
    folder, epochs = zoo / stream_folder(name, seed), scenario.training.epochs
    parts = enumerate(scenario.experiences)
    return [_Job(name, seed, number, part.index, epochs, folder, device) for number, part in parts]


def _train(job: _Job, tell: Tell) -> None:
    """One expert of a stream."""
    scenario = scenarios.load(job.scenario, job.seed, "validation")  # with the same training images as for the test
    alone = attrs.evolve(scenario, experiences=scenario.experiences[job.number : job.number + 1])
    alone.train_experts(job.seed, job.folder, device=job.device, progress=lambda done, _: tell(done), validation=alone)
