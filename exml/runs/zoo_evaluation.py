"""What the experts of a zoo can do, each alone and all together: what ``exml experts evaluate`` does."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import attrs
import torch

from exml import scenarios
from exml.baselines import Oracle
from exml.core.errors import ExmlError, ExpertError, StreamError
from exml.core.files import write_json
from exml.core.registry import component
from exml.core.serialization import to_plain
from exml.experts import ExpertCard, ExpertStream, load_expert, read_card
from exml.experts.folder import natural
from exml.runs.baselines import BASELINES, baseline_result
from exml.runs.environment import device_of
from exml.runs.evaluation import accuracy
from exml.runs.result import BaselineResult
from exml.scenarios import Experience, Split

FILE = "evaluation.json"
"""In the folder of the zoo."""


@component
@attrs.frozen(kw_only=True)
class ExpertEvaluation:
    """One expert of a zoo.

    Args:
        name: of its files.
        classes: global ids of its classes.
        images: those of its own classes that it was asked about.
        accuracy: on them, among its own classes; None if it could not be asked.
        fault: why not.
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
        scenario: with its settings, as it was trained; None if no card says it.
        seed: of the scenario and the training.
        experts: in their order.
        baselines: of all of them together; none if an expert is faulty.
    """

    folder: str
    scenario: str | None = None
    seed: int | None = None
    experts: tuple[ExpertEvaluation, ...] = ()
    baselines: tuple[BaselineResult, ...] = ()


@component
@attrs.frozen(kw_only=True)
class ZooEvaluation:
    """All streams of a zoo; ``evaluation.json`` is this as JSON.

    Args:
        split: which images the accuracies are of.
        streams: by name, with 2 before 10.
    """

    split: Split
    streams: tuple[StreamEvaluation, ...]

    @property
    def faults(self) -> dict[str, str]:
        """Why an expert could not be asked, by its folder and name."""
        every = ((stream, expert) for stream in self.streams for expert in stream.experts)
        return {f"{stream.folder}/{expert.name}": expert.fault for stream, expert in every if expert.fault is not None}


def evaluate_zoo(
    zoo: Path | str,
    *,
    split: Split = "test",
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> ZooEvaluation:
    """Ask each expert about the images of its own classes, and the baselines about those of all; writes a file of it.

    The SHA-256 of all weights is checked. A file that is damaged or absent is named in the result, and the others are
    evaluated all the same.

    Args:
        zoo: as :func:`train_zoo` makes it.
        split: which images are asked about.
        device: where, as torch names it; ``"auto"`` is an accelerator if there is one.
        progress: called with the number of streams that are done and of all.

    Raises:
        StreamError: there are no experts in any folder of the zoo.
        ExmlError: what is wrong with the split, the device, a scenario or its data.
    """
    zoo = Path(zoo)
    found = {folder: _names(folder) for folder in sorted(zoo.glob("*/"), key=lambda path: natural(path.name))}
    found = {folder: names for folder, names in found.items() if names}
    if not found:
        raise StreamError(
            expected=f"folders of experts in {zoo}",
            got="none" if zoo.is_dir() else "no such folder",
            remedy="check the path; 'exml experts train' makes them",
        )
    place = device_of(device)
    streams: list[StreamEvaluation] = []
    for folder, names in found.items():
        streams.append(_stream(folder, names, split, place))
        if progress is not None:
            progress(len(streams), len(found))
    evaluation = ZooEvaluation(split=split, streams=tuple(streams))
    write_json(zoo / FILE, to_plain(evaluation))
    return evaluation


def _names(folder: Path) -> list[str]:
    files = (path for path in folder.glob("expert-*") if path.suffix in (".json", ".safetensors"))
    return sorted({path.stem for path in files}, key=natural)


def _stream(folder: Path, names: list[str], split: Split, device: torch.device) -> StreamEvaluation:
    cards: dict[str, ExpertCard] = {}
    faults: dict[str, str] = {}
    for name in names:
        try:
            cards[name] = read_card(folder / f"{name}.json")
        except ExpertError as error:
            faults[name] = str(error)
    origin = next((_origin(card) for card in cards.values() if _origin(card) is not None), None)
    if origin is None:
        said = "its card does not say on which scenario and with which seed it was trained"
        experts = [ExpertEvaluation(name=name, fault=faults.get(name, said)) for name in names]
        return StreamEvaluation(folder=folder.name, experts=tuple(experts))
    scenario = scenarios.load(*origin, split)
    experts: list[ExpertEvaluation] = []
    for experience in scenario.experiences:
        name = f"expert-{experience.index}"
        fault = faults.get(name)
        if name in cards and _origin(cards[name]) != origin:
            fault = f"it was trained on {_origin(cards[name])}, and another one here on {origin}"
        elif name not in names:
            fault = "it is not there"
        experts.append(_expert(folder / f"{name}.json", experience, scenario.classes, device, fault))
    baselines: list[BaselineResult] = []
    if all(expert.fault is None for expert in experts):
        stream = ExpertStream([partial(load_expert, folder / f"{expert.name}.json") for expert in experts])
        baselines = [baseline_result(baseline, stream, scenario, device) for baseline in BASELINES]
    return StreamEvaluation(
        folder=folder.name, scenario=origin[0], seed=origin[1], experts=tuple(experts), baselines=tuple(baselines)
    )


def _origin(card: ExpertCard) -> tuple[str, int] | None:
    """The scenario and the seed that a card names."""
    name, seed = card.training.get("scenario"), card.training.get("seed")
    return (name, seed) if isinstance(name, str) and isinstance(seed, int) else None


def _expert(
    path: Path, experience: Experience, classes: int, device: torch.device, fault: str | None
) -> ExpertEvaluation:
    if fault is None:
        try:
            expert = load_expert(path)
            if expert.classes != experience.classes:
                fault = f"it knows the classes {expert.classes}, and its experience has {experience.classes}"
            else:
                test = experience.test.to(device)
                predict = Oracle()(ExpertStream.from_experts([expert.to(device)]), classes)
                right = accuracy(predict, test, torch.zeros_like(test.labels))
                return ExpertEvaluation(name=path.stem, classes=expert.classes, images=len(test), accuracy=right)
        except ExmlError as error:
            fault = str(error)
    return ExpertEvaluation(name=path.stem, classes=experience.classes, fault=fault)
