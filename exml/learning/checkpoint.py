"""Checkpoints: a folder that a run can go on from, whenever it was killed.

Two files. ``memory-N.safetensors`` holds what does not change within experience N, written once as it begins its
distillation; ``checkpoint.safetensors`` holds what changes, and in its header a JSON record that names the memory file
it belongs to. Both are written under a temporary name and renamed, the memory file first, so there is a whole pair at
every moment. Nothing is pickled.
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

VERSION = 1
"""Of the layout; a checkpoint of another version is refused."""


@attrs.frozen
class CheckpointFolder:
    """Reads and writes the checkpoint of one run.

    Args:
        path: the folder; made when first written to.
    """

    path: Path = attrs.field(converter=Path)

    @property
    def file(self) -> Path:
        """The file that says how far the run is."""
        return self.path / "checkpoint.safetensors"

    def exists(self) -> bool:
        """Whether there is a checkpoint."""
        return self.file.exists()

    def write(self, record: Mapping[str, Any], groups: Mapping[str, State], /) -> None:
        """Replace the checkpoint.

        Args:
            record: JSON; ``record["run"]["memory"]`` names the memory file, or is None.
            groups: tensors, by group and name.

        Raises:
            CheckpointError: when it cannot be written; the one before is as it was.
        """
        # One key only: safetensors writes several in no fixed order, and equal runs shall give equal bytes.
        write_tensors(self.file, _flatten(groups), {"record": json.dumps({"version": VERSION, **record})})
        for old in self.path.glob("memory-*.safetensors"):
            if old.name != record["run"]["memory"]:
                old.unlink()

    @staticmethod
    def memory_name(experience: int, /) -> str:
        """The name of a memory file, for the record."""
        return f"memory-{experience}.safetensors"

    def write_memory(self, experience: int, groups: Mapping[str, State], /) -> None:
        """Write what stays the same within an experience."""
        write_tensors(self.path / self.memory_name(experience), _flatten(groups))

    def read(self) -> tuple[dict[str, Any], dict[str, State]]:
        """The record and all groups, those of the memory file too.

        Raises:
            CheckpointError: absent, truncated, or of another version.
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
        """Remove what a killed run left half-written."""
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
            remedy="name the folder of a run; if the file was damaged, begin again in another folder",
        ) from None
    return record, dict(groups)
