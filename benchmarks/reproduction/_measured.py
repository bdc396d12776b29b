"""A run that is over as a cell."""

from __future__ import annotations

import os
from pathlib import Path

import attrs

from exml.core.errors import ExmlError
from exml.experts import read_card
from exml.experts.folder import natural
from exml.runs import Result, Seconds
from exml.runs.sweep import Failure, Task
from reproduction.cell import Cell

DIGITS = 12
"""Of a SHA-256."""


def measured(cell: Cell, task: Task, failure: Failure | None, commit: str | None, out: Path) -> Cell:
    """A cell with what its run has found, or why it has not.

    Args:
        cell: as it was planned.
        task: the run.
        failure: None if it went well.
        commit: of exml.
        out: the folder; messages name it by its name only, for cells are shown to others.
    """
    if failure is not None:
        return attrs.evolve(cell, commit=commit, error=_without_places(failure.message, out))
    result = Result.load(Path(task.folder) / "result.json")
    found = attrs.evolve(cell, experts=_experts(Path(task.experts)), environments=result.environments, commit=commit)
    if cell.is_baselines:
        return attrs.evolve(found, baselines=result.baselines, seconds=_rounded(result.seconds))
    (learned,) = result.strategies
    return attrs.evolve(
        found,
        accuracy=learned.accuracy,
        stream_accuracy=learned.stream_accuracy,
        forgetting=learned.forgetting,
        seconds=_rounded(learned.seconds),
    )


def _experts(folder: Path) -> tuple[str, ...]:
    paths = sorted(folder.glob("expert-*.json"), key=lambda path: natural(path.stem))
    try:
        return tuple((read_card(path).sha256 or "")[:DIGITS] for path in paths)
    except ExmlError:  # somebody else is at work on them
        return ()


def _rounded(seconds: Seconds) -> Seconds:
    return Seconds(**{name: round(value, 3) for name, value in attrs.asdict(seconds).items()})


def _without_places(message: str, out: Path) -> str:
    places = {str(out.resolve()): out.name, os.environ.get("EXML_DATA", ""): "EXML_DATA", str(Path.home()): "~"}
    for place, name in places.items():
        message = message.replace(place, name) if len(place) > 1 else message
    return message
