"""How much time a run spends in each phase, including runs that are killed and resumed."""

from __future__ import annotations

import time
from typing import Literal, TypeAlias

from exml.runs.result import Seconds
from exml.runs.run_folder import RunFolder

PERIOD = 2.0
"""Seconds between two writes of the record."""
Phase: TypeAlias = Literal["experts", "generation", "distillation", "evaluation"]


class Clock:
    """Adds elapsed time to the current phase, in the record of a run.

    Args:
        folder: the folder of the run.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._strategy: str | None = None
        self._phase: Phase | None = "experts"
        self._since = self._saved = time.perf_counter()

    def enter(self, phase: Phase | None, strategy: str | None = None) -> None:
        """Count time for a phase from now on, of one strategy or of the whole run; None counts no time."""
        if (phase, strategy) != (self._phase, self._strategy):
            self._settle()
            self._phase, self._strategy = phase, strategy

    def tick(self) -> None:
        """Write the record if the last write was long enough ago."""
        if time.perf_counter() > self._saved + PERIOD:
            self.save()

    def save(self) -> None:
        """Write the record now."""
        self._settle()
        self._folder.save()
        self._saved = time.perf_counter()

    def _settle(self) -> None:
        now = time.perf_counter()
        if self._phase is not None:
            passed = Seconds(**{self._phase: now - self._since})
            record = self._folder.record
            if self._strategy is None:
                record.shared += passed
            else:
                record.strategies[self._strategy].seconds += passed
        self._since = now
