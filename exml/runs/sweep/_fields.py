"""Fields of a strategy in plain form, addressed by their paths."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from exml.core.errors import SettingError


def with_field(plain: Any, path: str, value: Any, strategy: str) -> Any:
    """A copy of plain data with another value at a path; parts off the path are shared.

    Args:
        plain: a strategy in plain form.
        path: keys separated by dots, indices of lists in brackets: ``prior.parts[0].weight``.
        value: plain data.
        strategy: its name, for error messages.

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

    def changed(part: Any, steps: list[Any], walked: str) -> Any:
        if not steps:
            return value
        step = steps[0]
        if step not in (part if isinstance(part, Mapping) else range(len(part)) if isinstance(part, list) else ()):
            raise SettingError(
                expected=f"a field of strategy {strategy!r}, where {walked or 'it'} {_contents(part)}",
                got=repr(path),
                remedy="correct the path, or set the field only for the strategies that have it",
            )
        walked = f"{walked}[{step}]" if isinstance(step, int) else f"{walked}.{step}".lstrip(".")
        copied: Any = dict(part) if isinstance(part, Mapping) else list(part)
        copied[step] = changed(part[step], steps[1:], walked)
        return copied

    return changed(plain, [key or int(place) for key, place in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path)], "")


def _contents(part: Any) -> str:
    if isinstance(part, Mapping):
        return f"has the fields {', '.join(map(str, part))}"
    return f"is a list of {len(part)}" if isinstance(part, list) else f"is {part!r}, which has no fields"


def show(value: Any) -> str:
    """A value as short text: JSON, except for strings, which have no quotes."""
    return value if isinstance(value, str) else json.dumps(value)


def short_names(paths: list[str]) -> dict[str, str]:
    """The last key of each path where it is unique, otherwise the whole path.

    >>> short_names(["training.iterations", "generator.iterations", "training.batch_size"])
    {'training.iterations': 'training.iterations', 'generator.iterations': 'generator.iterations',
     'training.batch_size': 'batch_size'}
    """
    ends = [path.rpartition(".")[2] for path in paths]
    return {path: end if ends.count(end) == 1 else path for path, end in zip(paths, ends, strict=True)}
