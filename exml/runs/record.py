"""The record of a run, ``run.json``: what was asked for, and the progress that no checkpoint holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import attrs

from exml.core.errors import CheckpointError
from exml.core.execution import EAGER, Execution
from exml.core.serialization import from_plain
from exml.runs.forecast import Forecast
from exml.runs.result import Environment, Seconds
from exml.runs.student_plan import StudentPlan

T = TypeVar("T")
VERSION = 2
"""Version of ``run.json``; a run of another version is not resumed."""


@attrs.frozen
class Request:
    """What the students depend on, apart from the machine; a resumed run must ask for the same.

    Args:
        strategies: as plain data, by name.
        seed: of everything random.
        device: as torch names it.
        execution: of the hot loops.
        scenario: its name; None for a folder of experts.
        split: the images that accuracies are measured on; None for a folder of experts.
        student: the student's architecture and images, for a folder of experts.
    """

    strategies: Mapping[str, Any]
    seed: int
    device: str
    execution: Execution = EAGER
    scenario: str | None = None
    split: Literal["test", "validation"] | None = None
    student: StudentPlan | None = None


@attrs.define
class Progress:
    """The progress of one strategy, apart from its checkpoint.

    Args:
        accuracy: the rows of the accuracy matrix so far.
        seconds: time spent on it.
        forecast: time that generation and distillation were expected to take, if somebody asked.
    """

    accuracy: tuple[tuple[float, ...], ...] = ()
    seconds: Seconds = attrs.field(factory=Seconds)
    forecast: Forecast | None = None


@attrs.define
class Record:
    """The contents of ``run.json``.

    Args:
        request: what was asked for.
        environments: where the run was executed, each environment once.
        shared: time spent on what the strategies share: the experts and the baselines.
        strategies: progress by name.
        version: of this layout.
    """

    request: Request
    environments: tuple[Environment, ...] = ()
    shared: Seconds = attrs.field(factory=Seconds)
    strategies: dict[str, Progress] = attrs.field(factory=dict[str, Progress])
    version: Literal[2] = 2


def read_record(path: Path) -> Record:
    """Read ``run.json``.

    Raises:
        CheckpointError: it is missing, damaged, or of another version.
    """
    return read_versioned(path, Record, VERSION, f"a run of version {VERSION} in {path}")


def read_versioned(path: Path, cls: type[T], version: int, expected: str) -> T:
    """Read a JSON file that states its ``version``.

    Raises:
        CheckpointError: it is missing, damaged, or of another version.
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
        remedy="resume it with the exml that started it, or start it again in another folder",
    )


def require_same(begun: Request, asked: Request, path: Path) -> None:
    """Refuse to resume a run with other arguments.

    Raises:
        CheckpointError: naming the first argument that differs.
    """
    for field in attrs.fields(Request):
        before, now = getattr(begun, field.name), getattr(asked, field.name)
        if before == now:
            continue
        name = field.name
        if name == "strategies" and set(before) == set(now):
            name = next(f"strategy {name!r}" for name in before if before[name] != now[name])
            before, now = "as it was then", "another one under this name"
        elif name == "strategies":
            before, now = ", ".join(before), ", ".join(now)
        raise CheckpointError(
            expected=f"the {name} that the run in {path} was started with: {before}",
            got=str(now),
            remedy="resume it with the same arguments, or start another run in another folder",
        )
