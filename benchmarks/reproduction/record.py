"""The requests of all calls in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import attrs

from exml.core.files import write_json
from exml.runs.record import read_versioned
from reproduction.plan import ReproductionPlan

FILE = "reproduction.json"
VERSION = 1
"""Of the file; other versions are refused."""


@attrs.define
class Record:
    """The contents of ``reproduction.json``.

    Args:
        asked: the requested rows of each column, with the reason if a row cannot be measured; the last call counts.
        version: of this layout.
    """

    asked: dict[str, dict[str, str | None]] = attrs.field(factory=dict[str, dict[str, str | None]])
    version: Literal[1] = 1

    @property
    def reasons(self) -> dict[tuple[str, str], str | None]:
        """The reasons by column and row."""
        return {(column, row): reason for column, rows in self.asked.items() for row, reason in rows.items()}

    def add(self, plan: ReproductionPlan) -> None:
        """Add the request of a plan."""
        for column, row in plan.wanted:
            self.asked.setdefault(column, {})[row] = plan.absent.get((column, row))

    def merge(self, other: Record) -> None:
        """Add the requests of another folder; rows that could be measured there have no reason here."""
        for column, rows in other.asked.items():
            mine = self.asked.setdefault(column, {})
            for row, reason in rows.items():
                mine[row] = None if row in mine and mine[row] is None else reason

    def save(self, folder: Path) -> None:
        """Write the file atomically."""
        write_json(folder / FILE, attrs.asdict(self))


def read_record(folder: Path) -> Record:
    """The record of a folder; empty if there is none."""
    path = folder / FILE
    return read_versioned(path, Record, VERSION, f"a reproduction in {folder}") if path.exists() else Record()
