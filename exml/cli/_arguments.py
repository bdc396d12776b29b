"""What several commands take: whole numbers, flags, strategies by name or file."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, Token

from exml.core.errors import SettingError
from exml.learning.strategy import Strategy
from exml.recipes import for_scenario


def _whole(_: object, tokens: Sequence[Token]) -> int:
    """Cyclopts rounds 1.5; a seed that nobody asked for is not what was meant."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"expected a whole number, got {tokens[0].value!r}") from None


def again(*, resumed: bool) -> str:
    """The command that goes on with a run of this one."""
    return shlex.join(["exml", *sys.argv[1:]]) + ("" if resumed else " --resume")


Whole = Annotated[int, Parameter(converter=_whole)]
Flag = Annotated[bool, Parameter(show_default=False)]


def strategies_of(text: str, scenario: str, seed: int) -> dict[str, Strategy]:
    """The strategies that --strategy names; a file's name is that of its strategy."""
    chosen: dict[str, Strategy] = {}
    for part in text.split(","):
        path = Path(part)
        is_file = path.suffix in (".yaml", ".yml", ".json") or os.sep in part
        name = path.stem if is_file else part
        if name in chosen:
            raise SettingError(expected="each strategy once", got=f"{name!r} twice", remedy="rename one of the files")
        chosen[name] = Strategy.load(path) if is_file else for_scenario(part, scenario, seed).build()
    return chosen
