"""Types of arguments that commands share, and strategies and students by name or file."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from cyclopts import Parameter, Token

from exml.core.errors import ConfigError, SettingError
from exml.core.files import read_yaml
from exml.core.plain import parse_yaml
from exml.learning.strategy import Strategy
from exml.recipes import RECIPES

T = TypeVar("T")


def _whole(_: object, tokens: Sequence[Token]) -> int:
    """A whole number; Cyclopts would round 1.5."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"expected a whole number, got {tokens[0].value!r}") from None


Whole = Annotated[int, Parameter(converter=_whole)]
Flag = Annotated[bool, Parameter(show_default=False)]


def again(*, resumed: bool) -> str:
    """The command line that resumes this run."""
    return shlex.join(["exml", *sys.argv[1:]]) + ("" if resumed else " --resume")


def strategies_of(text: str, named: Callable[[str], T]) -> dict[str, Strategy | T]:
    """The strategies of ``--strategy`` by name: files, and names that ``named`` looks up."""
    chosen: dict[str, Strategy | T] = {}
    for part in text.split(","):
        path = Path(part)
        is_file = path.suffix in (".yaml", ".yml", ".json") or os.sep in part
        name = path.stem if is_file else part
        if name in chosen:
            raise SettingError(expected="each strategy once", got=f"{name!r} twice", remedy="rename one of the files")
        chosen[name] = Strategy.load(path) if is_file else named(part)
    return chosen


def require_recipe(name: str) -> None:
    """Refuse a name that no strategy has."""
    if name not in RECIPES:
        expected = f"one of {', '.join(RECIPES)}"
        raise SettingError(expected=expected, got=repr(name), remedy="choose one, or give a YAML file")


def student_of(text: str) -> dict[str, Any]:
    """The architecture of ``--student``: NAME, NAME:setting=value,... or a YAML file with a name and settings."""
    path = Path(text)
    if path.suffix in (".yaml", ".yml", ".json"):
        found = read_yaml(path, "a student")
    else:
        name, _, values = text.partition(":")
        try:
            found = parse_yaml(f"{{name: {name}, settings: {{{values.replace('=', ': ')}}}}}")
        except ConfigError:
            found = None
    found = found if isinstance(found, dict) else {}
    settings = found.get("settings") or {}
    fits = isinstance(found.get("name"), str) and set(found) <= {"name", "settings"} and isinstance(settings, dict)
    if not fits or not all(isinstance(key, str) and value is not None for key, value in settings.items()):
        examples = "conv-net or conv-net:widths=[8,16],batch_norm=false"
        expected = f"a student such as {examples}, or a YAML file with name and settings"
        raise SettingError(expected=expected, got=repr(text), remedy="correct it; exml.models.names() lists the names")
    return {"name": found["name"], "settings": settings}
