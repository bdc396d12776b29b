"""The stream log: which experts were learned in which order. Lines are only appended, so its cost stays constant."""

from __future__ import annotations

import json
import os
from collections.abc import Container, Mapping
from pathlib import Path
from typing import IO, Any

from exml.core.errors import CheckpointError
from exml.core.serialization import from_plain
from exml.experts import Screening
from exml.runs.result import ExperienceResult

_NEEDED = {
    "begun": ("experience", "file", "classes", "task"),
    "learned": ("experience",),
    "screened": ("screening",),
    "refused": ("file",),
}
"""The keys of each event that are read back."""


class StreamLog:
    """``stream.jsonl``: one JSON object per line, with an ``event``.

    Each process writes ``opened``. An experience is ``begun`` once its expert is chosen, then ``learned``; its seconds
    and loss are None if they were lost with a killed process. Each expert is ``screened``, with its figures
    (:class:`exml.experts.screening.Screening`), and may be ``refused``. Each line is on the disk
    before the run continues. A last line that a kill cut short is removed. With ``writes=False``, for ranks other than
    the leader, the log only tracks what would be written.
    """

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self.files: list[str] = []
        """The names of the experts' files, one per experience begun; the last may still be in progress."""
        self.over = 0
        """The number of experiences that are logged as learned."""
        self.suspects: dict[str, Screening] = {}
        """The first screening of each suspect expert, by its name."""
        try:
            with path.open("a+b" if writes else "rb") as file:
                file.seek(0)
                end = 0
                for number, line in enumerate(file, 1):
                    if not line.endswith(b"\n"):
                        break
                    self._note(self._parsed(line, number))
                    end += len(line)
                if writes:
                    file.truncate(end)
            if writes:
                self._file = path.open("ab")
        except OSError as error:
            raise self._unwritable(error) from error

    def __enter__(self) -> StreamLog:
        """Open until the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def write(self, event: str, /, **fields: Any) -> None:
        """Append an event."""
        entry = {"event": event, **fields}
        self._note(entry)
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(entry, ensure_ascii=False, allow_nan=False).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._unwritable(error) from error

    def experiences(self, wanted: Container[int]) -> list[ExperienceResult]:
        """Some of the experiences that were begun, for a figure; read from the file, which has them all."""
        found: dict[int, ExperienceResult] = {}
        with self._path.open("rb") as file:
            for number, line in enumerate(file, 1):
                entry = self._parsed(line, number)
                if entry["event"] == "begun" and (index := entry["experience"]) in wanted:
                    classes = tuple(entry["classes"])
                    found[index] = ExperienceResult(index=index, classes=classes, task=entry["task"], images=1)
        return [found[index] for index in sorted(found)]

    def _note(self, entry: Mapping[str, Any]) -> None:
        if entry["event"] == "begun":  # the last line of an experience counts
            self.files[entry["experience"] - 1 :] = [entry["file"]]
        elif entry["event"] == "learned":
            self.over = entry["experience"]
        elif entry["event"] == "screened":
            screening = from_plain(entry["screening"], Screening)
            if screening.reasons or screening.doubts:
                self.suspects.setdefault(screening.expert, screening)
        elif entry["event"] == "refused" and self.files[self.over :] == [entry["file"]]:
            self.files.pop()

    def _parsed(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            entry: Any = json.loads(line)
            for key in _NEEDED.get(entry["event"], ()):
                entry[key]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                expected=f"one event per line in {self._path}",
                got=f"something else in line {number}",
                remedy="replace it by a complete copy, or start again in another folder",
            ) from error
        return entry

    def _unwritable(self, error: OSError) -> CheckpointError:
        return CheckpointError(
            expected=f"to write {self._path}", got=str(error), remedy="free some space or choose another folder"
        )
