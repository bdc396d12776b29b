"""Types of arguments that commands share, and strategies by name or file."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import attrs
from cyclopts import Parameter, Token
from rich.console import Console, RenderableType

from exml.core.errors import SettingError
from exml.learning.strategy import Strategy

T = TypeVar("T")


def _whole(_: object, tokens: Sequence[Token]) -> int:
    """A whole number; Cyclopts would round 1.5."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"expected a whole number, got {tokens[0].value!r}") from None


Whole = Annotated[int, Parameter(converter=_whole)]
Flag = Annotated[bool, Parameter(show_default=False)]


@Parameter(name="*")
@attrs.frozen
class Printing:
    """What a command prints on stdout.

    Args:
        quiet: Print only errors.
        json: Print the result as one JSON object, and nothing else.
    """

    quiet: Flag = False
    json: Flag = False

    @property
    def console(self) -> Console:
        """The console for everything but the result."""
        return Console(quiet=self.quiet or self.json, highlight=False)

    def show(self, plain: Any, *shown: RenderableType) -> None:
        """Print a result: as JSON, or as something for people."""
        if self.json:
            sys.stdout.write(json.dumps(plain, allow_nan=False, default=list) + "\n")
        for part in shown:
            self.console.print(part)


PRINTING = Printing()


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
