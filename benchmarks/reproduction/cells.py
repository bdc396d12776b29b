"""Cells: the measurements of one strategy, or of the baselines, in one scenario with one seed; their requests."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import attrs

from exml.core.errors import CheckpointError, ConfigError, ExmlError
from exml.core.files import read_json, write_json
from exml.core.serialization import from_plain
from exml.experts import read_card
from exml.experts.entries import natural
from exml.learning.strategy import Strategy
from exml.runs import BaselineResult, Environment, Failure, Result, Seconds
from reproduction.layout import BASELINES

T = TypeVar("T")
VERSION = 1
"""Of all files; other versions are refused."""
FILE = "reproduction.json"
DIGITS = 12
"""Of a SHA-256."""


@attrs.frozen(kw_only=True)
class Cell:
    """The contents of a file below ``cells/``.

    Args:
        version: of this layout.
        column: name of the scenario, without settings of its experts' training.
        scenario: name with these settings.
        row: name of the recipe, or ``"baselines"``.
        seed: of the scenario, the experts and the student.
        budget: see :func:`exml.recipes.at_budget`; None for baselines.
        buffer: size of the buffer in a cell of Figure 3.
        strategy: as plain data, at the budget; None for baselines.
        training: of the experts, as plain data.
        experts: the first digits of the SHA-256 of each expert's weights.
        accuracy: the accuracy matrix, as in :class:`exml.runs.StrategyResult`.
        stream_accuracy: after each experience (Eq. 2).
        forgetting: see :func:`exml.runs.evaluation.forgetting`.
        baselines: all of them, in the cell of the baselines.
        seconds: of this strategy, or of baselines and experts.
        environments: where it was measured.
        commit: of exml, if it is known.
        error: why the measurement failed, in one line.
    """

    version: Literal[1] = 1
    column: str
    scenario: str
    row: str
    seed: int
    budget: float | None = None
    buffer: int | None = None
    strategy: Any = None
    training: Any = None
    experts: tuple[str, ...] = ()
    accuracy: tuple[tuple[float, ...], ...] = ()
    stream_accuracy: tuple[float, ...] = ()
    forgetting: float | None = None
    baselines: tuple[BaselineResult, ...] = ()
    seconds: Seconds | None = None
    environments: tuple[Environment, ...] = ()
    commit: str | None = None
    error: str | None = None

    @property
    def name(self) -> str:
        """The path of its file below ``cells/`` without the suffix."""
        parts = [self.row]
        parts += [] if self.budget is None else [f"budget={self.budget:g}"]
        parts += [] if self.buffer is None else [f"buffer={self.buffer}"]
        folder = re.sub(r"[^\w.-]", "-", self.scenario)
        return f"{folder}/{'--'.join([*parts, f'seed={self.seed}'])}"

    @property
    def is_baselines(self) -> bool:
        return self.row == BASELINES

    def save(self, folder: Path) -> None:
        """Write its file into the folder of a reproduction, atomically."""
        write_json(folder / "cells" / f"{self.name}.json", attrs.asdict(self))


def read_cell(path: Path) -> Cell:
    """Read the file of a cell; raises CheckpointError if it is damaged or of another version."""
    return read_versioned(path, Cell, f"a cell of version {VERSION} in {path}")


def in_full(strategy: Any) -> Any:
    """A cell's strategy with the values of fields that are newer than the cell; unchanged if it cannot be read."""
    try:
        return Strategy.from_dict(_with_overlap(strategy)).to_dict()
    except ConfigError:
        return strategy


def _with_overlap(plain: Any) -> Any:
    """Older combiners of the paper's recipes averaged by halves; calibrated ones never had classes to average."""
    if not isinstance(plain, Mapping):
        return plain
    found = {name: _with_overlap(value) for name, value in plain.items()}
    if found.get("kind") in ("by-class", "side-by-side") and not found.get("calibration"):
        found.setdefault("overlap", "half")
    return found


def read_cells(folder: Path) -> tuple[Cell, ...]:
    """All cells in the folder of a reproduction, in the order of their files."""
    return tuple(map(read_cell, cell_files(folder)))


def cell_files(folder: Path) -> Sequence[Path]:
    """The files of these cells."""
    return sorted((folder / "cells").glob("*/*.json"))


def measured(cell: Cell, run: Path, experts: Path, failure: Failure | None) -> Cell:
    """A planned cell with the results of its run, or with the reason why there are none."""
    if failure is not None:
        return attrs.evolve(cell, commit=commit(), error=_without_places(failure.message, run.parents[1]))
    result = Result.load(run / "result.json")
    found = attrs.evolve(cell, experts=_experts(experts), environments=result.environments, commit=commit())
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


def _experts(folder: Path) -> tuple[str, ...]:
    paths = sorted(folder.glob("expert-*.json"), key=lambda path: natural(path.stem))
    try:
        return tuple((read_card(path).sha256 or "")[:DIGITS] for path in paths)
    except ExmlError:  # another process is writing them
        return ()


def _rounded(seconds: Seconds) -> Seconds:
    return Seconds(**{name: round(value, 3) for name, value in attrs.asdict(seconds).items()})


def _without_places(message: str, out: Path) -> str:
    """The message without the paths of this machine, since cells are published."""
    places = {str(out.resolve()): out.name, os.environ.get("EXML_DATA", ""): "EXML_DATA", str(Path.home()): "~"}
    for place, name in places.items():
        message = message.replace(place, name) if len(place) > 1 else message
    return message


@attrs.define
class Record:
    """The contents of ``reproduction.json``: by column and row, the reason why a requested row cannot be measured."""

    asked: dict[str, dict[str, str | None]] = attrs.field(factory=dict[str, dict[str, str | None]])
    version: Literal[1] = 1

    @property
    def reasons(self) -> dict[tuple[str, str], str | None]:
        """The reasons by column and row."""
        return {(column, row): reason for column, rows in self.asked.items() for row, reason in rows.items()}

    def add(self, reasons: Mapping[tuple[str, str], str | None]) -> None:
        """Add requested rows with their reasons, by column and row."""
        for (column, row), reason in reasons.items():
            self.asked.setdefault(column, {})[row] = reason

    def merge(self, other: Record) -> None:
        """Add the requests of another folder; rows that could be measured there have no reason here."""
        for column, rows in other.asked.items():
            mine = self.asked.setdefault(column, {})
            for row, reason in rows.items():
                mine[row] = None if row in mine and mine[row] is None else reason

    def save(self, folder: Path) -> None:
        """Write the file atomically."""
        write_json(folder / FILE, attrs.asdict(self))


def read_versioned(path: Path, cls: type[T], expected: str) -> T:
    """Read a JSON file that states its version; raises CheckpointError if it is damaged or of another version."""
    try:
        plain = read_json(path)
        found = plain.get("version") if isinstance(plain, Mapping) else None
        if found == VERSION:
            return from_plain(plain, cls)
        got = f"version {found}"
    except (OSError, ConfigError) as error:
        got = str(error)
    raise CheckpointError(expected=expected, got=got, remedy="start it again in another folder")


def read_record(folder: Path) -> Record:
    """The record of a folder; empty if there is none."""
    path = folder / FILE
    return read_versioned(path, Record, f"a reproduction in {folder}") if path.exists() else Record()
