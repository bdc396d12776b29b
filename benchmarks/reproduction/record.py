"""What was asked for in a folder, over all calls."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import attrs

from exml.core.files import write_json
from exml.runs.record import read_versioned
from reproduction.plan import ReproductionPlan

FILE = "reproduction.json"
VERSION = 1
"""Of the file; one of another version is refused."""


@attrs.define
class Record:
    """The contents of ``reproduction.json``.

    Args:
        asked: of each column, the rows that were asked for, each with the reason why it cannot be measured, if there
            is one; the last call counts.
        version: of this layout.
    """

    asked: dict[str, dict[str, str | None]] = attrs.field(factory=dict[str, dict[str, str | None]])
    version: Literal[1] = 1

    @property
    def reasons(self) -> dict[tuple[str, str], str | None]:
        """By column and row."""
        return {(column, row): reason for column, rows in self.asked.items() for row, reason in rows.items()}

    def add(self, plan: ReproductionPlan) -> None:
        """Note what a plan asks for."""
        for column, row in plan.wanted:
            self.asked.setdefault(column, {})[row] = plan.absent.get((column, row))

    def merge(self, other: Record) -> None:
        """Note what another folder was asked for; what could be measured there is wanted here."""
        for column, rows in other.asked.items():
            mine = self.asked.setdefault(column, {})
            for row, reason in rows.items():
                mine[row] = None if row in mine and mine[row] is None else reason

    def save(self, folder: Path) -> None:
        """Write the file, atomically."""
        write_json(folder / FILE, attrs.asdict(self))


def read_record(folder: Path) -> Record:
    """That of a folder; an empty one if there is none."""
    path = folder / FILE
    return read_versioned(path, Record, VERSION, f"a reproduction in {folder}") if path.exists() else Record()
