"""What was learned in which order: a file to which a line is added, so that its cost does not grow with the stream."""

from __future__ import annotations

import json
import os
from collections.abc import Container, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from exml.core.errors import CheckpointError
from exml.experts import ExpertCard
from exml.runs.result import ExperienceResult

_NEEDED = {"begun": ("experience", "file", "classes", "task"), "learned": ("experience",), "refused": ("file",)}
"""Keys of each event that are read again."""


class Ledger:
    """``stream.jsonl``: one JSON object a line, told apart by its ``event``.

    A run is ``opened`` by a process; an experience is ``begun`` with an expert, then ``learned``; an expert may be
    ``refused``. Each line is on the disk before the run goes on. A last line that a kill cut short is taken away.

    Args:
        path: of the file; made if need be.
        writes: False: only read it, and keep in mind what would be written, as ranks do that do not lead.

    Raises:
        CheckpointError: it cannot be read or written, or is damaged before its last line.
    """

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self.files: list[str] = []
        """Of the experts, one an experience that was begun, without their endings; the last may be under way."""
        self.over = 0
        """How many experiences the ledger knows to be over."""
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

    def __enter__(self) -> Ledger:
        """Open until the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """No more lines."""
        if self._file is not None:
            self._file.close()

    def opened(self, what: Mapping[str, Any]) -> None:
        """A process works on the run from here on."""
        self._write({"event": "opened", **what})

    def begun(self, experience: int, file: str, card: ExpertCard) -> None:
        """The expert of an experience is chosen; from here on it is this one."""
        about = {"expert": card.name, "classes": card.classes, "task": card.task, "sha256": card.sha256}
        self._write({"event": "begun", "experience": experience, "file": file, **about})

    def learned(self, experience: int, seconds: float | None, loss: float | None) -> None:
        """An experience is over; None for what only a killed process knew."""
        self._write({"event": "learned", "experience": experience, "seconds": seconds, "loss": loss})

    def refused(self, file: str, reason: str) -> None:
        """An expert was not learned from."""
        self._write({"event": "refused", "file": file, "reason": reason})

    def experiences(self, wanted: Container[int]) -> list[ExperienceResult]:
        """Some of the experiences that were begun, for a picture; read from the file, which keeps them all."""
        found: dict[int, ExperienceResult] = {}
        with self._path.open("rb") as file:
            for number, line in enumerate(file, 1):
                entry = self._parsed(line, number)
                if entry["event"] == "begun" and (index := entry["experience"]) in wanted:
                    classes = tuple(entry["classes"])
                    found[index] = ExperienceResult(index=index, classes=classes, task=entry["task"], images=1)
        return [found[index] for index in sorted(found)]

    def _write(self, entry: Mapping[str, Any]) -> None:
        self._note(entry)
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(entry, ensure_ascii=False, allow_nan=False).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._unwritable(error) from error

    def _note(self, entry: Mapping[str, Any]) -> None:
        if entry["event"] == "begun":  # what was begun last under a number is what counts
            self.files[entry["experience"] - 1 :] = [entry["file"]]
        elif entry["event"] == "learned":
            self.over = entry["experience"]
        elif entry["event"] == "refused" and self.files[self.over :] == [entry["file"]]:
            self.files.pop()

    def _parsed(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            entry: Any = json.loads(line)
            for key in _NEEDED.get(entry["event"], ()):
                entry[key]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                expected=f"one event a line in {self._path}",
                got=f"something else in line {number}",
                remedy="put a whole copy in its place, or begin again in another folder",
            ) from error
        return entry

    def _unwritable(self, error: OSError) -> CheckpointError:
        return CheckpointError(
            expected=f"to write {self._path}", got=str(error), remedy="free some space or choose another folder"
        )
