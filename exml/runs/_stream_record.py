"""What a run over a stream was begun with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs

from exml.core.errors import CheckpointError
from exml.core.execution import EAGER, Execution
from exml.core.files import write_json
from exml.runs._record import read_versioned
from exml.runs._student import StudentPlan

VERSION = 1
"""Of ``stream.json``; a run of another version is not resumed."""


@attrs.frozen
class StreamRequest:
    """The contents of ``stream.json``: what the student depends on beside the experts; written once.

    Args:
        name: of the strategy.
        strategy: as plain data.
        seed: of everything random.
        device: as torch names it.
        student: what it is made of.
        execution: of the hot loops.
        version: of this layout.
    """

    name: str
    strategy: Any
    seed: int
    device: str
    student: StudentPlan
    execution: Execution = EAGER
    version: Literal[1] = 1

    def save(self, path: Path) -> None:
        """Write it."""
        write_json(path, attrs.asdict(self))

    @classmethod
    def load(cls, path: Path) -> StreamRequest:
        """Read what :meth:`save` wrote.

        Raises:
            CheckpointError: absent, damaged, or of another version.
        """
        expected = f"a run over a stream, of version {VERSION}, in {path}"
        return read_versioned(path, cls, VERSION, expected)

    def require_same(self, path: Path, asked: Mapping[str, Any]) -> None:
        """Refuse to go on with other arguments.

        Args:
            path: of the run.
            asked: the values of some fields.

        Raises:
            CheckpointError: naming the first that differs.
        """
        for name, now in asked.items():
            before = getattr(self, name)
            if before != now:
                short = "another one" if name in ("strategy", "student") else str(now)
                raise CheckpointError(
                    expected=f"the {name} that the run in {path} was begun with"
                    + ("" if short == "another one" else f": {before}"),
                    got=short,
                    remedy="resume it with the same arguments, or begin another run in another folder",
                )
