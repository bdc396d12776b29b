"""Checkpoints: a folder from which a learner resumes, whenever it was killed.

There are two files. ``memory-N.safetensors`` holds what stays the same during the distillation of experience N.
``checkpoint.safetensors`` holds what changes; a JSON record in its header names the memory file that belongs to it.
Both are written under a temporary name and renamed, the memory file first, so that a complete pair exists at every
moment. Nothing is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from safetensors import SafetensorError, safe_open
from torch import Tensor

from exml.core.errors import CheckpointError
from exml.core.files import write_tensors
from exml.core.shapes import State
from exml.core.validators import positive_int

EVERY = 1_000
"""Steps between two checkpoints, unless a folder says otherwise."""
VERSION = 1
"""Version of the layout; a checkpoint of another version is refused."""


@attrs.frozen
class CheckpointFolder:
    """Reads and writes the checkpoint of one learner.

    Args:
        path: the folder; created by the first write.
        every: steps of generation, or of distillation, between two checkpoints within an experience.

    Raises:
        SettingError: ``every`` is not positive.
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
        """Replace the checkpoint.

        Args:
            record: JSON; ``record["run"]["memory"]`` names the memory file, or is None.
            groups: tensors, by group and name.

        Raises:
            CheckpointError: it cannot be written; the previous one is unchanged.
        """
        # One key only: safetensors writes several in no fixed order, and equal runs must give equal bytes.
        write_tensors(self.file, _flatten(groups), {"record": json.dumps({"version": VERSION, **record})})
        for old in self.path.glob("memory-*.safetensors"):
            if old.name != record["run"]["memory"]:
                old.unlink()

    @staticmethod
    def memory_name(experience: int, /) -> str:
        """The name of a memory file, for the record."""
        return f"memory-{experience}.safetensors"

    def write_memory(self, experience: int, groups: Mapping[str, State], /) -> None:
        """Write what stays the same during the distillation of an experience."""
        write_tensors(self.path / self.memory_name(experience), _flatten(groups))

    def read(self) -> tuple[dict[str, Any], dict[str, State]]:
        """The record and all groups, including those of the memory file.

        Raises:
            CheckpointError: it is missing, truncated, or of another version.
        """
        record, groups = _read(self.file)
        if record.get("version") != VERSION:
            raise CheckpointError(
                expected=f"a checkpoint of version {VERSION} in {self.file}",
                got=repr(record.get("version")),
                remedy="resume with the exml that wrote it",
            )
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
        raise CheckpointError(
            expected=f"a whole checkpoint in {path}",
            got=str(error) or type(error).__name__,
            remedy="check the path; if the file is damaged, start again in another folder",
        ) from None
    return record, dict(groups)
