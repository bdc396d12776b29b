"""A cell from the results of its run."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path

import attrs

from exml.core.errors import ExmlError
from exml.experts import read_card
from exml.experts.card import natural
from exml.runs import Failure, Result, Seconds
from exml.runs.sweep import Task
from reproduction.cell import Cell

DIGITS = 12
"""Of a SHA-256."""


def measured(cell: Cell, task: Task, failure: Failure | None, out: Path) -> Cell:
    """A cell with the results of its run, or with the reason why there are none.

    Args:
        cell: as planned.
        task: the run.
        failure: None if the run succeeded.
        out: the folder; error messages contain only its name, since cells are published.
    """
    if failure is not None:
        return attrs.evolve(cell, commit=commit(), error=_without_places(failure.message, out))
    result = Result.load(task.folder / "result.json")
    found = attrs.evolve(cell, experts=_experts(task.source.folder), environments=result.environments, commit=commit())
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


@cache
def commit() -> str | None:
    """``EXML_COMMIT`` or the commit of this working copy, with a ``+`` if files were changed; None if unknown."""
    if named := os.environ.get("EXML_COMMIT"):
        return named
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def _experts(folder: Path | None) -> tuple[str, ...]:
    paths = [] if folder is None else sorted(folder.glob("expert-*.json"), key=lambda path: natural(path.stem))
    try:
        return tuple((read_card(path).sha256 or "")[:DIGITS] for path in paths)
    except ExmlError:  # another process is writing them
        return ()


def _rounded(seconds: Seconds) -> Seconds:
    return Seconds(**{name: round(value, 3) for name, value in attrs.asdict(seconds).items()})


def _without_places(message: str, out: Path) -> str:
    places = {str(out.resolve()): out.name, os.environ.get("EXML_DATA", ""): "EXML_DATA", str(Path.home()): "~"}
    for place, name in places.items():
        message = message.replace(place, name) if len(place) > 1 else message
    return message
