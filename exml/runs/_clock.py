"""Where the time of a run goes, also of one that is killed and resumed."""

from __future__ import annotations

import time
from typing import Literal, TypeAlias

from exml.runs._folder import RunFolder
from exml.runs.result import Seconds

PERIOD = 2.0
"""Seconds between two times that the clock is written down."""
Phase: TypeAlias = Literal["experts", "generation", "distillation", "evaluation"]


class Clock:
    """Adds the time that passes to the phase under way, in the record of a run.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._strategy: str | None = None
        self._phase: Phase = "experts"
        self._since = self._saved = time.perf_counter()

    def enter(self, phase: Phase, strategy: str | None = None) -> None:
        """From here on the time is this phase's, of a strategy or of the whole run."""
        if (phase, strategy) != (self._phase, self._strategy):
            self._settle()
            self._phase, self._strategy = phase, strategy

    def tick(self) -> None:
        """Write the record if it is time to."""
        if time.perf_counter() > self._saved + PERIOD:
            self.save()

    def save(self) -> None:
        """Write the record now."""
        self._settle()
        self._folder.save()
        self._saved = time.perf_counter()

    def _settle(self) -> None:
        now = time.perf_counter()
        passed = Seconds(**{self._phase: now - self._since})
        record = self._folder.record
        if self._strategy is None:
            record.shared += passed
        else:
            record.strategies[self._strategy].seconds += passed
        self._since = now
