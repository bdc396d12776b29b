"""Checkpoints: a folder from which a learner resumes after it was killed at any moment.

There are two files. ``memory-N.safetensors`` holds what stays the same during the distillation of experience N.
``checkpoint.safetensors`` holds what changes; a JSON record in its header names the memory file that belongs to it.
Both are written under a temporary name and renamed, the memory file first, so that a complete pair exists at every
moment. Nothing is pickled.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from exml.core.errors import CheckpointError, StreamError, UnknownNameError
from exml.core.expert import Expert
from exml.core.files import write_tensors
from exml.core.serialization import to_plain
from exml.core.shapes import State
from exml.core.validators import positive_int
from exml.learning.strategy import Strategy

EVERY = 1_000
"""Default number of steps between two checkpoints."""
VERSION = 1
"""Version of the layout; a checkpoint of another version is refused."""


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
        """The file that holds the progress of the run."""
        return self.path / "checkpoint.safetensors"

    def exists(self) -> bool:
        """Whether the folder holds a checkpoint."""
        return self.file.exists()

    def write(self, record: Mapping[str, Any], groups: Mapping[str, State], /) -> None:
        """Replace the checkpoint by a JSON record and groups of tensors; ``record["run"]["memory"]`` names a file."""
        # One key only: safetensors writes several in no fixed order, and equal runs must give equal bytes.
        write_tensors(self.file, _flatten(groups), {"record": json.dumps({"version": VERSION, **record})})
        for old in self.path.glob("memory-*.safetensors"):
            if old.name != record["run"]["memory"]:
                old.unlink()

    def write_memory(self, name: str, groups: Mapping[str, State], /) -> None:
        """Write what stays the same during the distillation of an experience."""
        write_tensors(self.path / name, _flatten(groups))

    def read(self) -> tuple[dict[str, Any], dict[str, State]]:
        """The record and all groups, including those of the memory file."""
        record, groups = _read(self.file)
        if record.get("version") != VERSION:
            expected = f"a checkpoint of version {VERSION} in {self.file}"
            remedy = "resume with the version of exml that wrote it"
            raise CheckpointError(expected=expected, got=repr(record.get("version")), remedy=remedy)
        memory = record["run"]["memory"]
        if memory is not None:
            groups |= _read(self.path / memory)[1]
        return record, groups

    def clean(self) -> None:
        """Remove the partial files of a killed run."""
        for part in self.path.glob(".*.part"):
            part.unlink(missing_ok=True)


def _flatten(groups: Mapping[str, State]) -> dict[str, Tensor]:
    return {f"{group}/{name}": tensor for group, state in groups.items() for name, tensor in state.items()}


def _read(path: Path) -> tuple[dict[str, Any], dict[str, State]]:
    groups: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(path, framework="pt") as file:  # pyright: ignore[reportUnknownVariableType]
            record = json.loads((file.metadata() or {}).get("record", "{}"))
            for key in file.keys():  # noqa: SIM118  (not a dict)
                group, name = key.split("/", 1)
                groups.setdefault(group, {})[name] = file.get_tensor(key)
    except (OSError, SafetensorError, ValueError) as error:
        expected = f"a complete checkpoint in {path}"
        remedy = "check the path; if the file is damaged, start again in another folder"
        raise CheckpointError(expected=expected, got=str(error) or type(error).__name__, remedy=remedy) from None
    return record, dict(groups)


@attrs.define
class RunState:
    """The progress of a learner."""

    experience: int = 0  # finished experiences
    phase: Literal["idle", "generation", "distillation"] = "idle"
    steps: int = 0  # of the current distillation
    known: tuple[int, ...] = attrs.field(default=(), converter=tuple)  # classes that the experts were trained on
    taught: tuple[int, ...] = attrs.field(default=(), converter=tuple)  # how many experts taught each of them
    present: tuple[int, ...] = attrs.field(default=(), converter=tuple)  # classes that have an output unit
    refused: int = 0  # suspect experts of the stream that were passed over
    in_flight: str | None = None  # fingerprint of the current expert
    memory: str | None = None  # name of the memory file

    def admit(self, expert: Expert) -> None:
        """Note the current expert, which must be the one with which the experience was started."""
        fingerprint = expert.fingerprint()
        if self.phase != "idle" and fingerprint != self.in_flight:
            expected = f"the expert with which experience {self.experience + 1} was started"
            remedy = "resume with the same stream"
            raise StreamError(expected=expected, got=f"another one ({expert.name!r})", remedy=remedy)
        self.in_flight = fingerprint

    def finish(self, expert: Expert) -> None:
        """Count a finished experience."""
        taught = Counter(dict(zip(self.known, self.taught, strict=True))) + Counter(expert.classes)
        self.known = tuple(sorted(taught))
        self.taught = tuple(taught[name] for name in self.known)
        self.present = tuple(sorted({*self.present, *(unit for unit in expert.outputs if unit is not None)}))
        self.experience, self.phase, self.steps, self.in_flight = self.experience + 1, "idle", 0, None


def identity(strategy: Strategy, seed: int) -> dict[str, Any]:
    """What must be equal when a run resumes."""
    try:
        return {"strategy": to_plain(strategy), "seed": seed}
    except UnknownNameError as error:
        expected = "a strategy that a checkpoint can store"
        raise CheckpointError(expected=expected, got=error.got, remedy=error.remedy) from None


def load_student(student: nn.Module, state: State, where: str) -> None:
    """Load the tensors of a checkpoint into a student of the same architecture."""
    ours = {name: tuple(tensor.shape) for name, tensor in student.state_dict().items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if ours != theirs:
        name = min(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        got = f"another architecture: {name} is {ours.get(name)} here and {theirs.get(name)} there"
        remedy = "make the learner with a student of the same architecture"
        raise CheckpointError(expected=f"the student of {where}", got=got, remedy=remedy)
    student.load_state_dict(dict(state))


def optimizer_state(optimizer: torch.optim.Optimizer) -> State:
    """An optimizer's tensors by name; its settings belong to the strategy."""
    return {
        f"{index}.{name}": value
        for index, slots in optimizer.state_dict()["state"].items()
        for name, value in slots.items()
        if isinstance(value, Tensor)
    }


def load_optimizer(optimizer: torch.optim.Optimizer, state: State) -> None:
    """The inverse of :func:`optimizer_state`."""
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        index, name = key.split(".", 1)
        slots.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
