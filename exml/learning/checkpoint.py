"""Checkpoints: a folder from which a learner resumes after it was killed at any moment.

``checkpoint.json`` is the record: the progress of the learner, and the SHA-256 of one or two files of tensors.
``memory-*.safetensors`` holds what stays the same during the distillation of an experience, ``state-*.safetensors``
what changes. ``history.jsonl`` has a line per finished experience; lines are only appended, so that the cost of a
checkpoint does not grow with the stream, and the record has the checksum of those that count. The names of tensor files
contain the first digits of their checksums, so none is overwritten. The record is written last
and replaced atomically, and only then are the files of the previous one deleted: a complete checkpoint exists at every
moment. The record ends with its own checksum. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import attrs
import torch
from attrs.validators import deep_iterable
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from exml.core.errors import CheckpointError, ConfigError, SettingError, StreamError, UnknownNameError
from exml.core.expert import Expert
from exml.core.files import file_digest, open_to_write, read_bytes, remove_partial, write_tensors
from exml.core.plain import parse_json
from exml.core.records import read_record, write_record
from exml.core.serialization import to_plain
from exml.core.shapes import State
from exml.core.validators import Validator, field_error, in_range, positive_int
from exml.engine import PreviousStudent
from exml.learning.strategy import Strategy
from exml.models.classifier import Classifier, grow_layer

EVERY = 1_000
"""Default number of steps between two checkpoints."""
_TENSORS = re.compile(r"(state|memory)-[0-9a-f]{16}\.safetensors")
_COUNT, _CLASSES = in_range(0, integer=True), deep_iterable(in_range(0, integer=True))


def _checksum(*, optional: bool = False) -> Validator:
    def check(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not (value is None and optional) and not re.fullmatch("[0-9a-f]{64}", str(value)):
            raise field_error(instance, attribute, value, "a SHA-256 in hexadecimal", "restore the record")

    return check


@attrs.define
class RunState:
    """The progress of a learner.

    Args:
        experience: number of finished experiences.
        steps: of the current distillation.
        known: classes that the experts were trained on, ascending.
        taught: number of experts that taught each of them.
        present: classes that have an output unit.
        refused: number of suspect experts of the stream that were passed over.
        in_flight: fingerprint of the current expert.
        memory: SHA-256 of the memory file; None before the first distillation.
        note: JSON about the current experience.
        history: checksum of the history; None before the first experience is finished.
        length: of the history in bytes.

    Raises:
        SettingError: a field is out of range, or contradicts another one.
    """

    experience: int = attrs.field(default=0, validator=_COUNT)
    phase: Literal["idle", "generation", "distillation"] = "idle"
    steps: int = attrs.field(default=0, validator=_COUNT)
    known: tuple[int, ...] = attrs.field(default=(), converter=tuple, validator=_CLASSES)
    taught: tuple[int, ...] = attrs.field(default=(), converter=tuple, validator=_CLASSES)
    present: tuple[int, ...] = attrs.field(default=(), converter=tuple, validator=_CLASSES)
    refused: int = attrs.field(default=0, validator=_COUNT)
    in_flight: str | None = attrs.field(default=None, validator=_checksum(optional=True))
    memory: str | None = attrs.field(default=None, validator=_checksum(optional=True))
    note: Mapping[str, Any] | None = None
    history: str | None = attrs.field(default=None, validator=_checksum(optional=True))
    length: int = attrs.field(default=0, validator=_COUNT)

    def __attrs_post_init__(self) -> None:
        busy, distills = self.phase != "idle", self.phase == "distillation"
        contradicts = {
            "steps": self.steps > 0 and not distills,
            "in_flight": busy != (self.in_flight is not None),
            "memory": (distills or self.experience > 0) and self.memory is None,
            "note": busy != (self.note is not None),
            "history": (self.experience > 0) != (self.history is not None),
            "taught": len(self.taught) != len(self.known),
            "known": self.experience == 0 and bool(self.known or self.present),
        }
        for name in (name for name, fault in contradicts.items() if fault):
            expected = f"{name} that fits experience {self.experience} and the phase {self.phase!r}"
            raise SettingError(expected=expected, got=repr(getattr(self, name)), remedy="restore the record")

    def admit(self, expert: Expert, note: Mapping[str, Any]) -> None:
        """Note the current expert, which must be the one with which the experience was started."""
        fingerprint = expert.fingerprint()
        if self.phase != "idle" and fingerprint != self.in_flight:
            expected = f"the expert with which experience {self.experience + 1} was started"
            remedy = "resume with the same stream"
            raise StreamError(expected=expected, got=f"another one ({expert.name!r})", remedy=remedy)
        self.in_flight, self.note = fingerprint, {**(self.note or {} if self.phase != "idle" else {}), **note}

    def previous(self, module: nn.Module, classes: int, device: torch.device) -> PreviousStudent:
        """A module as the student of all finished experiences."""
        ids = torch.arange(classes)
        masks = [torch.isin(ids, torch.tensor(known)) for known in (self.known, self.present)]
        taught = torch.zeros_like(ids).index_copy(0, torch.tensor(self.known), torch.tensor(self.taught))
        return PreviousStudent(module, *(column.to(device) for column in (*masks, taught)))

    def dismiss(self) -> None:
        """Forget the current expert, whose images could not be generated."""
        self.phase, self.in_flight, self.note = "idle", None, None

    def finish(self, expert: Expert, loss: float | None) -> dict[str, Any]:
        """Count a finished experience; returns its note with the last loss."""
        taught = Counter(dict(zip(self.known, self.taught, strict=True))) + Counter(expert.classes)
        self.known = tuple(sorted(taught))
        self.taught = tuple(taught[name] for name in self.known)
        self.present = tuple(sorted({*self.present, *(unit for unit in expert.outputs if unit is not None)}))
        done = {**(self.note or {}), "loss": loss}
        self.experience, self.phase, self.steps = self.experience + 1, "idle", 0
        self.in_flight, self.note = None, None
        return done


@attrs.frozen(kw_only=True)
class CheckpointRecord:
    """The contents of ``checkpoint.json``.

    Args:
        strategy: like ``seed``, must be the same when the run resumes.
        threads: of torch on the CPU, on which the last bits of sums depend.
        state: SHA-256 of the state file.
    """

    version: Literal[2] = 2
    strategy: Any
    seed: int
    threads: int = attrs.field(validator=positive_int())
    run: RunState
    state: str = attrs.field(validator=_checksum())


@attrs.frozen
class CheckpointFolder:
    """The checkpoint of one learner, in a folder that the first write creates.

    Within an experience, ``every`` is the number of steps of generation, or of distillation, between two checkpoints.
    """

    path: Path = attrs.field(converter=Path)
    every: int = attrs.field(default=EVERY, validator=positive_int())

    @classmethod
    def of(cls, folder: CheckpointFolder | Path | str, /) -> CheckpointFolder:
        """The folder itself, or one for a path."""
        return folder if isinstance(folder, CheckpointFolder) else cls(folder)

    @property
    def file(self) -> Path:
        """The record."""
        return self.path / "checkpoint.json"

    def exists(self) -> bool:
        """Whether the folder holds a checkpoint."""
        return self.file.exists()

    def write(self, asked: Mapping[str, Any], run: RunState, groups: Mapping[str, State], /) -> None:
        """Replace the checkpoint by the progress of a run, what :func:`identity` returned, and groups of tensors.

        :meta private:
        """
        state, threads = self._write("state", groups), torch.get_num_threads()
        write_record(self.file, CheckpointRecord(**asked, threads=threads, run=run, state=state))
        self._keep({state, run.memory})

    def write_memory(self, groups: Mapping[str, State], /) -> str:
        """Write what stays the same during the distillation of an experience; returns its checksum for the run.

        :meta private:
        """
        return self._write("memory", groups)

    def append(self, run: RunState, history: Sequence[Mapping[str, Any]], /) -> None:
        """Append experiences to the history; they count once a record is written.

        :meta private:
        """
        path, lines = self.path / "history.jsonl", [json.dumps(done).encode() + b"\n" for done in history]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with open_to_write(path) as file:
                file.truncate(run.length)  # what a killed process appended does not count
                file.seek(run.length)
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            remedy = "free some space or choose another folder"
            raise CheckpointError(expected=f"to write {path}", got=str(error), remedy=remedy) from error
        run.length, run.history = run.length + sum(map(len, lines)), reduce(_chained, lines, run.history)

    def read(self) -> tuple[CheckpointRecord, dict[str, State], list[Mapping[str, Any]]]:
        """The record, all groups, and the history; a CheckpointError names a file that is missing or damaged.

        :meta private:
        """
        record = read_record(self.file, CheckpointRecord)
        history = self._history(record.run)
        groups = self._read("state", record.state)
        if record.run.memory is not None:
            groups |= self._read("memory", record.run.memory)
        return record, groups, history

    def clean(self, record: CheckpointRecord, /) -> None:
        """Remove what a killed run left behind.

        :meta private:
        """
        remove_partial(self.path.glob(".*"))
        self._keep({record.state, record.run.memory})

    def _write(self, kind: str, groups: Mapping[str, State]) -> str:
        digest = ""

        def rename(temporary: Path) -> str:
            nonlocal digest
            digest = file_digest(temporary)
            return _name(kind, digest)

        tensors = {f"{group}/{name}": tensor for group, state in groups.items() for name, tensor in state.items()}
        write_tensors(self.path / f"{kind}.safetensors", tensors, rename=rename)
        return digest

    def _read(self, kind: str, digest: str) -> dict[str, State]:
        path, groups = self.path / _name(kind, digest), dict[str, dict[str, Tensor]]()
        try:
            if (found := file_digest(path)) != digest:
                got = f"one with SHA-256 {found}, not {digest}"
            else:
                with safe_open(path, framework="pt") as file:  # pyright: ignore[reportUnknownVariableType]
                    for key in file.keys():  # noqa: SIM118  (not a dict)
                        group, name = key.split("/", 1)
                        groups.setdefault(group, {})[name] = file.get_tensor(key)
                return dict(groups)
        except (OSError, SafetensorError, ValueError) as error:
            got = str(error) or type(error).__name__
        remedy = "restore the file, or start again in another folder"
        raise CheckpointError(expected=f"an undamaged file {path}", got=got, remedy=remedy)

    def _history(self, run: RunState) -> list[Mapping[str, Any]]:
        path, got = self.path / "history.jsonl", "other lines"
        try:
            lines = read_bytes(path, 2**30)[: run.length].splitlines(keepends=True) if run.length else []
            if len(lines) == run.experience and reduce(_chained, lines, None) == run.history:
                history = [parse_json(line, file_names=True) for line in lines]
                if all(isinstance(done, dict) and "loss" in done for done in history):
                    return history
        except (OSError, ConfigError) as error:
            got = str(error)
        remedy = "restore the file, or start again in another folder"
        raise CheckpointError(expected=f"{run.experience} undamaged line(s) in {path}", got=got, remedy=remedy)

    def _keep(self, digests: Collection[str | None]) -> None:
        kept = {_name(kind, digest) for digest in digests if digest is not None for kind in ("state", "memory")}
        for path in self.path.iterdir():
            if _TENSORS.fullmatch(path.name) and path.name not in kept:
                with suppress(OSError):
                    path.unlink()


def _chained(checksum: str | None, line: bytes) -> str:
    return hashlib.sha256((checksum or "").encode() + line).hexdigest()


def _name(kind: str, digest: str) -> str:
    return f"{kind}-{digest[:16]}.safetensors"


def identity(strategy: Strategy, seed: int) -> dict[str, Any]:
    """What must be equal when a run resumes."""
    try:
        return {"strategy": to_plain(strategy), "seed": seed}
    except UnknownNameError as error:
        expected = "a strategy that a checkpoint can store"
        raise CheckpointError(expected=expected, got=error.got, remedy=error.remedy) from None


def load_student(student: nn.Module, state: State, where: str) -> None:
    """Load the tensors of a checkpoint into a student of the same architecture, whose last layer may have to grow."""
    ours = {name: tuple(tensor.shape) for name, tensor in student.state_dict().items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in state.items()}
    different = {name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)}
    layer = next((name.rpartition(".")[0] for name in different), "")
    if different and _has_grown(student, layer, {name: (ours.get(name), theirs.get(name)) for name in different}):
        grow_layer(student, layer, len(state[min(different)]))
    elif different:
        name = min(different)
        got = f"another architecture: {name} is {ours.get(name)} here and {theirs.get(name)} there"
        remedy = "make the learner with a student of the same architecture"
        raise CheckpointError(expected=f"the student of {where}", got=got, remedy=remedy)
    student.load_state_dict(dict(state))


def _has_grown(student: nn.Module, layer: str, shapes: Mapping[str, tuple[Any, Any]]) -> bool:
    """Whether these pairs of different shapes are those of one layer, and of this layer with more outputs."""
    return isinstance(dict(student.named_modules()).get(layer), Classifier) and all(
        name.rpartition(".")[0] == layer and ours and theirs and ours[0] < theirs[0] and ours[1:] == theirs[1:]
        for name, (ours, theirs) in shapes.items()
    )


def optimizer_state(optimizer: torch.optim.Optimizer) -> State:
    """An optimizer's tensors by name; its settings belong to the strategy."""
    return {
        f"{index}.{name}": value
        for index, slots in optimizer.state_dict()["state"].items()
        for name, value in slots.items()
        if isinstance(value, Tensor)
    }


def load_optimizer(optimizer: torch.optim.Optimizer, state: State) -> None:
    """The inverse of :func:`optimizer_state`; a CheckpointError if the tensors do not fit the parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        index, _, name = key.partition(".")
        shape = parameters[int(index)].shape if index.isdecimal() and int(index) < len(parameters) else None
        if value.shape not in (shape, torch.Size()):
            expected, got = "a state of the optimizer that fits the student", f"{key} {tuple(value.shape)}"
            raise CheckpointError(expected=expected, got=got, remedy="start again in another folder")
        slots.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
