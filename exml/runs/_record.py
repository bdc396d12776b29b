"""The record of a run: what was asked for, and how far it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import attrs

from exml.core.errors import CheckpointError
from exml.core.execution import EAGER, Execution
from exml.core.serialization import from_plain
from exml.runs.result import Environment, Seconds

T = TypeVar("T")
VERSION = 1
"""Of ``run.json``; a run of another version is not resumed."""


@attrs.frozen
class Request:
    """What the numbers of a run depend on, the machine left aside; a resumed run must ask for the same.

    Args:
        scenario: its name.
        strategies: as plain data, by name.
        seed: of everything random.
        split: which images the accuracies are of.
        device: as torch names it.
        execution: of the hot loops.
    """

    scenario: str
    strategies: Mapping[str, Any]
    seed: int
    split: Literal["test", "validation"]
    device: str
    execution: Execution = EAGER


@attrs.define
class Progress:
    """How far one strategy is, beside its checkpoint.

    Args:
        accuracy: the rows of the accuracy matrix so far.
        seconds: spent on it.
    """

    accuracy: tuple[tuple[float, ...], ...] = ()
    seconds: Seconds = attrs.field(factory=Seconds)


@attrs.define
class Record:
    """The contents of ``run.json``.

    Args:
        request: what was asked for.
        environments: where it ran, each once.
        shared: seconds spent on what the strategies have in common, the experts and the baselines.
        strategies: by name.
        version: of this layout.
    """

    request: Request
    environments: tuple[Environment, ...]
    shared: Seconds = attrs.field(factory=Seconds)
    strategies: dict[str, Progress] = attrs.field(factory=dict[str, Progress])
    version: Literal[1] = 1


def read_record(path: Path) -> Record:
    """Read ``run.json``.

    Raises:
        CheckpointError: absent, damaged, or of another version.
    """
    return read_versioned(path, Record, VERSION, f"a run of version {VERSION} in {path}")


def read_versioned(path: Path, cls: type[T], version: int, expected: str) -> T:
    """Read a JSON file that says its ``version``.

    Raises:
        CheckpointError: absent, damaged, or of another version.
    """
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        found = plain.get("version") if isinstance(plain, Mapping) else None
        if found == version:
            return from_plain(plain, cls)
        got = f"version {found}"
    except (OSError, ValueError) as error:
        got = str(error)
    raise CheckpointError(
        expected=expected,
        got=got,
        remedy="resume it with the exml that began it, or begin it anew in another folder",
    )


def require_same(begun: Request, asked: Request, path: Path) -> None:
    """Refuse to resume a run with other arguments.

    Raises:
        CheckpointError: naming the first that differs.
    """
    for field in attrs.fields(Request):
        before, now = getattr(begun, field.name), getattr(asked, field.name)
        if before == now:
            continue
        name = field.name
        if isinstance(before, Mapping) and set(before) == set(now):
            name = next(f"strategy {name!r}" for name in before if before[name] != now[name])
            before, now = "as it was then", "another one under this name"
        elif isinstance(before, Mapping):
            before, now = ", ".join(before), ", ".join(now)
        raise CheckpointError(
            expected=f"the {name} that the run in {path} was begun with: {before}",
            got=str(now),
            remedy="resume it with the same arguments, or begin another run in another folder",
        )
