"""Cells: the measurements of one strategy, or of the baselines, in one scenario with one seed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import attrs

from exml.core.errors import ConfigError
from exml.core.files import write_json
from exml.learning.strategy import Strategy
from exml.runs import BaselineResult, Environment, Seconds
from exml.runs.record import read_versioned
from reproduction.layout import BASELINES

VERSION = 1
"""Of the files; other versions are refused."""


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
        """Unique; the path of its file below ``cells/`` without the suffix."""
        parts = [self.row]
        parts += [] if self.budget is None else [f"budget={self.budget:g}"]
        parts += [] if self.buffer is None else [f"buffer={self.buffer}"]
        return f"{slug(self.scenario)}/{'--'.join([*parts, f'seed={self.seed}'])}"

    @property
    def is_baselines(self) -> bool:
        """Whether this is the cell of the baselines."""
        return self.row == BASELINES

    def save(self, folder: Path) -> None:
        """Write its file into the folder of a reproduction, atomically."""
        write_json(folder / "cells" / f"{self.name}.json", attrs.asdict(self))


def slug(scenario: str) -> str:
    """The name of a scenario as the name of a folder.

    >>> slug("cifar10-nc:epochs=4,learning_rate=0.05")
    'cifar10-nc-epochs-4-learning_rate-0.05'
    """
    return re.sub(r"[^\w.-]", "-", scenario)


def read_cell(path: Path) -> Cell:
    """Read the file of a cell.

    Raises:
        CheckpointError: when it is damaged or of another version.
    """
    return read_versioned(path, Cell, VERSION, f"a cell of version {VERSION} in {path}")


def in_full(strategy: Any) -> Any:
    """A cell's strategy with the defaults of fields that are newer than the cell; unchanged if it cannot be read."""
    try:
        return Strategy.from_dict(strategy).to_dict()
    except ConfigError:
        return strategy


def read_cells(folder: Path) -> tuple[Cell, ...]:
    """All cells in the folder of a reproduction, in the order of their files."""
    return tuple(map(read_cell, cell_files(folder)))


def cell_files(folder: Path) -> Iterable[Path]:
    """The files of these cells."""
    return sorted((folder / "cells").glob("*/*.json"))
