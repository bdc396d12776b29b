"""The accuracies of the experts in a zoo, and of the baselines on each stream: ``exml experts evaluate``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import attrs
import torch
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from exml import scenarios
from exml.baselines import Oracle
from exml.core.errors import ExmlError, ExpertError, StreamError
from exml.core.files import write_json
from exml.core.registry import component
from exml.core.serialization import to_plain
from exml.experts import ExpertCard, ExpertStream, load_expert, read_card
from exml.experts.card import natural
from exml.runs.environment import device_of
from exml.runs.evaluation import BASELINES, accuracy, baseline_result
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
        every = ((stream, expert) for stream in self.streams for expert in stream.experts)
        return {f"{stream.folder}/{expert.name}": expert.fault for stream, expert in every if expert.fault is not None}


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
        StreamError: when no folder of the zoo holds experts.
        ExmlError: an invalid split or device, or a scenario whose data are missing.
    """
    zoo = Path(zoo)
    found = {folder: _names(folder) for folder in sorted(zoo.glob("*/"), key=lambda path: natural(path.name))}
    found = {folder: names for folder, names in found.items() if names}
    if not found:
        raise StreamError(
            expected=f"folders of experts in {zoo}",
            got="none" if zoo.is_dir() else "no such folder",
            remedy="check the path; 'exml experts train' creates them",
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
        unknown = "its card does not state the scenario and the seed of its training"
        experts = [ExpertEvaluation(name=name, fault=faults.get(name, unknown)) for name in names]
        return StreamEvaluation(folder=folder.name, experts=tuple(experts))
    scenario = scenarios.load(*origin, split)
    experts: list[ExpertEvaluation] = []
    for experience in scenario.experiences:
        name = f"expert-{experience.index}"
        fault = faults.get(name)
        if name in cards and _origin(cards[name]) != origin:
            fault = f"it was trained on {_origin(cards[name])}, another expert of the stream on {origin}"
        elif name not in names:
            fault = "its files are missing"
        experts.append(_expert(folder / f"{name}.json", experience, scenario.classes, device, fault))
    baselines: list[BaselineResult] = []
    if all(expert.fault is None for expert in experts):
        stream = ExpertStream([partial(load_expert, folder / f"{expert.name}.json") for expert in experts])
        baselines = [baseline_result(baseline, stream, scenario, device) for baseline in BASELINES]
    return StreamEvaluation(
        folder=folder.name, scenario=origin[0], seed=origin[1], experts=tuple(experts), baselines=tuple(baselines)
    )


def _origin(card: ExpertCard) -> tuple[str, int] | None:
    """The scenario and the seed that a card states."""
    name, seed = card.training.get("scenario"), card.training.get("seed")
    return (name, seed) if isinstance(name, str) and isinstance(seed, int) else None


def _expert(
    path: Path, experience: Experience, classes: int, device: torch.device, fault: str | None
) -> ExpertEvaluation:
    if fault is None:
        try:
            expert = load_expert(path)
            if expert.classes != experience.classes:
                fault = f"it knows the classes {expert.classes}, its experience has {experience.classes}"
            else:
                test = experience.test.to(device)
                predict = Oracle()(ExpertStream.from_experts([expert.to(device)]), classes)
                right = accuracy(predict, test, torch.zeros_like(test.labels))
                return ExpertEvaluation(name=path.stem, classes=expert.classes, images=len(test), accuracy=right)
        except ExmlError as error:
            fault = str(error)
    return ExpertEvaluation(name=path.stem, classes=experience.classes, fault=fault)


def zoo_table(evaluation: ZooEvaluation) -> Group:
    """Two tables in percent: each expert of a stream on its own classes, and the baselines on all classes.

    The reasons for missing accuracies are in :attr:`ZooEvaluation.faults`.
    """
    longest = max(len(stream.experts) for stream in evaluation.streams)
    own = _table([f"e{place}" for place in range(1, longest + 1)])
    together = _table(list(BASELINES))
    for stream in evaluation.streams:
        cells = ["fault" if expert.fault is not None else _percent(expert.accuracy) for expert in stream.experts]
        own.add_row(stream.folder, *cells, *[""] * (longest - len(cells)))
        accuracies = {row.name: row.stream_accuracy for row in stream.baselines}
        together.add_row(stream.folder, *(_percent(accuracies.get(name)) for name in BASELINES))
    images = "test" if evaluation.split == "test" else "validation"
    return Group(
        Text(f"Each expert on the {images} images of its own classes, %", style="bold"),
        own,
        Text(f"\nAll experts of a stream on all {images} images, %", style="bold"),
        together,
    )


def _table(columns: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("stream", overflow="fold")
    for column in columns:
        table.add_column(column.replace(" ", "\n"), justify="right", vertical="bottom", min_width=5)
    return table


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f}"
