"""The stream log: which experts were learned in which order. Lines are only appended, so its cost stays constant."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from exml.core.errors import CheckpointError, ConfigError, ExmlWarning
from exml.core.files import MEGABYTE, open_to_write, read_bytes, write_atomically
from exml.core.plain import parse_json
from exml.core.serialization import from_plain
from exml.experts import Screening

_UNCHECKED = ("seconds", "environment")
"""Fields that differ between equal runs, so that no checksum covers them."""


class StreamLog:
    """``stream.jsonl``: one JSON object per line, with an ``event`` and a ``check``, the checksum of the line.

    Each process writes ``opened``. An experience is ``begun`` once its expert is chosen, then ``learned``; its seconds
    are None if they were lost with a killed process. A suspect expert is ``screened``, and any expert may be
    ``refused``. Each line is on the disk before the run continues. A log that is lost, shortened or changed is
    ``rebuilt`` from the checkpoint, with an ExmlWarning; seconds in damaged lines become None.

    Args:
        path: of the file.
        history: of the learner, whose notes are the fields of ``begun``.
        experience: number of finished experiences of the learner.
        writes: False for ranks other than the leader: the log only tracks what would be written.

    Raises:
        CheckpointError: the log has more experiences than the checkpoint, or cannot be read or written.
    """

    def __init__(
        self, path: Path, history: Sequence[Mapping[str, Any]] = (), experience: int = 0, *, writes: bool = True
    ) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self._begun: dict[str, Any] = {}
        self._screened: list[Any] = []
        self.over = 0
        """The number of experiences that are logged as learned."""
        self.suspects: dict[str, Screening] = {}
        """The first screening of each suspect expert, by its name."""
        try:
            text = read_bytes(path, 256 * MEGABYTE, contained=True) if os.path.lexists(path) else b""
            lines = text.splitlines(keepends=True)
            sound, damage = self._compare(lines, history, experience)
            if damage is not None:
                text = self._rebuilt(lines, sound, history)
                if writes:
                    message = f"the log {path} {damage}: it is rebuilt from the checkpoint"
                    warnings.warn(message, ExmlWarning, stacklevel=2)
                    write_atomically(path, lambda temporary: temporary.write_bytes(text))
            if writes:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file = open_to_write(path)
                self._file.seek(0, os.SEEK_END)
        except OSError as error:
            raise self._unwritable(error) from error

    def __enter__(self) -> StreamLog:
        """Open until the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def begin(self, note: Mapping[str, Any]) -> None:
        """Write ``begun``, unless it is the last that was written of an experience."""
        if self._begun != note:
            self.write("begun", **note)

    def screen(self, experience: int, screening: Any) -> None:
        """Write ``screened``, unless it was written before a kill."""
        if screening not in self._screened:
            self.write("screened", experience=experience, screening=screening)

    def write(self, event: str, /, **fields: Any) -> None:
        """Append an event."""
        entry = {"event": event, **fields}
        self._note(entry)
        if self._file is None:
            return
        try:
            self._file.write(_line(entry))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._unwritable(error) from error

    def _note(self, entry: Mapping[str, Any]) -> None:
        if entry["event"] == "begun":
            self._begun, self._screened = {name: value for name, value in entry.items() if name != "event"}, []
        elif entry["event"] == "learned":
            self.over, self._begun = entry["experience"], {}
        elif entry["event"] == "refused" and self._begun.get("file") == entry["file"]:
            self._begun = {}
        elif entry["event"] == "screened":
            self._screened.append(entry["screening"])
            screening = from_plain(entry["screening"], Screening)
            self.suspects.setdefault(screening.expert, screening)

    def _compare(
        self, lines: Sequence[bytes], history: Sequence[Mapping[str, Any]], experience: int
    ) -> tuple[int, str | None]:
        """The number of lines before the first fault, and the fault."""
        for number, line in enumerate(lines):
            entry = _entry(line)
            if entry is None:
                return number, f"is damaged in line {number + 1}"
            fits = entry.get("experience", self.over + 1) == self.over + 1
            if entry["event"] == "learned" and self.over < experience:
                done = history[self.over]
                fits &= (self._begun, entry["loss"]) == (_note(done), done["loss"])
            if not fits:
                return number, f"contradicts the checkpoint in line {number + 1}"
            self._note(entry)
        if self.over > experience:
            raise CheckpointError(
                expected=f"the {self.over} experience(s) of {self._path} in checkpoint/checkpoint.json",
                got=str(experience),
                remedy="restore the checkpoint, or start again in another folder",
            )
        missing = history[self.over :]  # at most the current experience, or the one that was finished before a kill
        short = len(missing) > 1 or (len(missing) == 1 and self._begun != _note(missing[0]))
        return len(lines), "is missing" if short and not lines else "is shortened" if short else None

    def _rebuilt(self, lines: Sequence[bytes], sound: int, history: Sequence[Mapping[str, Any]]) -> bytes:
        """The sound lines, then what the checkpoint has in place of the others."""
        rest = [entry for entry in map(_entry, lines[sound:]) if entry is not None]
        learned = {entry["experience"]: entry for entry in rest if entry["event"] == "learned"}
        made = [entry for entry in rest if entry["event"] not in ("begun", "screened", "learned")]
        made.append({"event": "rebuilt", "experience": self.over + 1})
        for number, done in enumerate(history[self.over :], self.over + 1):
            begins = self._begun != _note(done)
            if begins:
                made.append({"event": "begun", **_note(done)})
            for screening in done.get("screened", ()):
                if begins or screening not in self._screened:
                    made.append({"event": "screened", "experience": number, "screening": screening})
            if number < len(history) or ("loss" in done and number in learned):  # the last may not be evaluated yet
                seconds = learned[number]["seconds"] if number in learned else None
                made.append({"event": "learned", "experience": number, "seconds": seconds, "loss": done.get("loss")})
        for entry in made:
            self._note(entry)
        return b"".join([*lines[:sound], *map(_line, made)])

    def _unwritable(self, error: OSError) -> CheckpointError:
        return CheckpointError(
            expected=f"to write {self._path}", got=str(error), remedy="free some space or choose another folder"
        )


def learned_experiences(path: Path, /) -> list[dict[str, Any]]:
    """The learned experiences of a log, in order: the fields of ``begun`` and ``learned``; damaged lines are left out.

    Raises:
        OSError: the log is missing or cannot be read.
    """
    begun: dict[str, Any] = {}
    found: list[dict[str, Any]] = []
    for entry in map(_entry, read_bytes(path, 256 * MEGABYTE, contained=True).splitlines(keepends=True)):
        if entry is not None and entry["event"] == "begun":
            begun = entry
        elif entry is not None and entry["event"] == "learned":
            found.append({**(begun if begun.get("experience") == entry["experience"] else {}), **entry})
    return found


def _note(done: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in done.items() if name not in ("loss", "screened")}


def _line(entry: Mapping[str, Any]) -> bytes:
    checked = json.dumps({name: value for name, value in entry.items() if name not in _UNCHECKED})
    check = hashlib.sha256(checked.encode()).hexdigest()[:16]
    return json.dumps({**entry, "check": check}, allow_nan=False).encode() + b"\n"


def _entry(line: bytes) -> dict[str, Any] | None:
    """An event; None for a line that was damaged or cut."""
    try:
        entry = parse_json(line, file_names=True)
    except ConfigError:
        return None
    match entry:
        case (
            {"event": "begun", "experience": int(), "file": str()}
            | {"event": "learned", "experience": int(), "seconds": _, "loss": _}
            | {"event": "screened", "experience": int(), "screening": dict()}
            | {"event": "refused", "file": str()}
            | {"event": "opened" | "rebuilt"}
        ):
            entry.pop("check", None)
            return entry if _line(entry) == line else None
        case _:
            return None
