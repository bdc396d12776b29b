"""Fields of a strategy by their paths, in its plain form."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from exml.core.errors import SettingError


def with_field(plain: Any, path: str, value: Any, strategy: str) -> Any:
    """A copy of plain data with another value at a path; what does not lie on the path is shared.

    Args:
        plain: of a strategy.
        path: keys with dots between them, places of lists in brackets: ``prior.parts[0].weight``.
        value: plain data.
        strategy: its name, for messages.

    Raises:
        SettingError: when the strategy has no such field.

    >>> with_field({"a": {"b": [1, 2]}}, "a.b[1]", 5, "mine")
    {'a': {'b': [1, 5]}}
    """
    if not re.fullmatch(r"[^.\[\]]+(\.[^.\[\]]+|\[\d+\])*", path):
        raise SettingError(
            expected="the path of a field, such as training.iterations or prior.parts[0].weight",
            got=repr(path),
            remedy="correct it",
        )
    steps: list[str | int] = []
    for key, place in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path):
        steps.append(key or int(place))
    return _with(plain, steps, value, path, strategy, "")


def _with(plain: Any, steps: list[Any], value: Any, path: str, strategy: str, walked: str) -> Any:
    if not steps:
        return value
    step, rest = steps[0], steps[1:]
    keys = plain.keys() if isinstance(plain, Mapping) else range(len(plain)) if isinstance(plain, list) else ()
    if step not in keys:
        if isinstance(plain, Mapping):
            inside = f"has the fields {', '.join(map(str, plain))}"
        else:
            inside = f"is a list of {len(plain)}" if isinstance(plain, list) else f"is {plain!r}, which has no fields"
        raise SettingError(
            expected=f"a field of strategy {strategy!r}, where {walked or 'it'} {inside}",
            got=repr(path),
            remedy="correct the path, or set the field only for the strategies that have it",
        )
    walked = f"{walked}[{step}]" if isinstance(step, int) else f"{walked}.{step}".lstrip(".")
    copied: Any = dict(plain) if isinstance(plain, Mapping) else list(plain)
    copied[step] = _with(plain[step], rest, value, path, strategy, walked)
    return copied


def show(value: Any) -> str:
    """A value as short text: JSON, but strings bare."""
    return value if isinstance(value, str) else json.dumps(value)


def short_names(paths: list[str]) -> dict[str, str]:
    """Each path without what is not needed to tell it from the others.

    >>> short_names(["training.iterations", "generator.iterations", "training.batch_size"])
    {'training.iterations': 'training.iterations', 'generator.iterations': 'generator.iterations',
     'training.batch_size': 'batch_size'}
    """
    ends = [path.rpartition(".")[2] for path in paths]
    return {path: end if ends.count(end) == 1 else path for path, end in zip(paths, ends, strict=True)}
