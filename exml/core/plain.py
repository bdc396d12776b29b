"""Plain data (dicts, lists, numbers, strings) from JSON and YAML of unknown origin; every fault is one ConfigError."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import attrs
import yaml

from exml.core.errors import ConfigError

DEPTH, VALUES, SCALAR = 50, 100_000, 4_096
"""Limits of a document: nested levels; for YAML, also values after the expansion of aliases, and characters of one."""
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C parser is optional, and ten times faster


def parse_json(text: str | bytes, /, *, file_names: bool = False) -> Any:
    """Parse JSON whose numbers are finite and below 2**64, whose keys are unique and whose text is valid Unicode.

    Args:
        text: bytes must be UTF-8, with or without a byte order mark.
        file_names: also accept the lone surrogates that stand for bytes of file names which are not UTF-8.

    Raises:
        ConfigError: for anything else, including more than 50 nested levels.

    >>> from exml.core.plain import parse_json
    >>> parse_json('{"classes": [0, 1]}')
    {'classes': [0, 1]}
    >>> parse_json('{"std": 1e999}')
    Traceback (most recent call last):
    exml.core.errors.ConfigError: expected finite numbers, got inf; remedy: correct the value
    """
    try:
        decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        plain = json.loads(decoded, object_pairs_hook=_unique)
    except ConfigError:
        raise
    except (ValueError, RecursionError) as error:
        raise _syntax("JSON", error) from None
    _check(plain, "surrogateescape" if file_names else "strict")
    return plain


def parse_yaml(text: str | bytes, /, *, values: int = VALUES) -> Any:
    """Parse one YAML document of plain data; the limits are those of :func:`parse_json`.

    After the expansion of aliases, it has at most 100,000 ``values``. A single value has at most 4,096 characters.

    >>> from exml.core.plain import parse_yaml
    >>> parse_yaml("widths: [8, 16]")
    {'widths': [8, 16]}
    >>> parse_yaml("a: &a [1, *a]")
    Traceback (most recent call last):
    exml.core.errors.ConfigError: expected an alias of a complete value, got '*a'; remedy: write it out
    """
    try:
        decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        _measure(decoded, values)
        plain = yaml.load(decoded, _LOADER)
    except ConfigError:
        raise
    except Exception as error:  # PyYAML raises almost anything for values that do not fit their tags
        raise _syntax("YAML", error) from None
    _check(plain, "strict")
    return plain


def _syntax(language: str, error: Exception) -> ConfigError:
    got = "too many nested levels" if isinstance(error, RecursionError) else str(error) or type(error).__name__
    remedy = "save the file as UTF-8" if isinstance(error, UnicodeDecodeError) else "correct the syntax"
    return _fault(f"valid {language}", got, remedy)


def _fault(expected: str, got: str, remedy: str = "correct the value") -> ConfigError:
    return ConfigError("", expected=expected, got=got, remedy=remedy)


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (key, times), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise _fault("each key once", f"{key!r} {times} times", "remove all but one")
    return found


def _check(plain: Any, surrogates: str) -> None:
    """Check every value, level by level, without recursion."""
    level = [plain]
    for _ in range(DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                for key in value:
                    if not isinstance(key, str):
                        raise _fault("keys that are strings", repr(key), "put the key in quotation marks")
                below += [*value, *value.values()]
            elif isinstance(value, list):
                below += value
            elif isinstance(value, str):
                try:
                    value.encode("utf-8", surrogates)
                except UnicodeEncodeError:
                    raise _fault("valid Unicode", repr(value)) from None
            elif isinstance(value, float):
                if not math.isfinite(value):
                    raise _fault("finite numbers", repr(value))
            elif isinstance(value, int):
                if value.bit_length() > 64:
                    raise _fault("integers of at most 64 bits", f"one of {value.bit_length()} bits")
            elif value is not None:
                raise _fault("numbers, strings, lists and mappings", repr(value), "put the value in quotation marks")
        if not below:
            return
        level = below
    raise _fault(f"at most {DEPTH} nested levels", "more", "correct the nesting")


@attrs.define
class _Collection:
    """A list or mapping that is being parsed; ``keys`` is None for a list."""

    anchor: str | None
    keys: set[str] | None
    size: int = 1
    parts: int = 0


def _measure(text: str, values: int) -> None:
    """Refuse excessive size, depth and expansion, and repeated keys, from the events of the parser alone."""
    outer = _Collection(None, None)
    stack, sizes = [outer], dict[str, int]()
    for event in yaml.parse(text, _LOADER):
        if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            stack.append(_Collection(event.anchor, set() if isinstance(event, yaml.MappingStartEvent) else None))
            if len(stack) > DEPTH:
                raise _fault(f"at most {DEPTH} nested levels", "more", "correct the nesting")
            continue
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise _fault("an alias of a complete value", repr(f"*{event.anchor}"), "write it out")
            size = sizes[event.anchor]
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            ended = stack.pop()
            size = ended.size
            if ended.anchor is not None:
                sizes[ended.anchor] = size
        elif isinstance(event, yaml.ScalarEvent):
            if len(event.value) > SCALAR:
                raise _fault(f"values of at most {SCALAR} characters", f"{event.value[:40]!r}...", "shorten it")
            size, keys = 1, stack[-1].keys
            if event.anchor is not None:
                sizes[event.anchor] = size
            if keys is not None and stack[-1].parts % 2 == 0:
                if event.value in keys:
                    raise _fault("each key once", f"{event.value!r} twice", "remove one of them")
                keys.add(event.value)
        else:
            continue
        stack[-1].size += size
        stack[-1].parts += 1
        if stack[-1].size > values:
            raise _fault(f"at most {values} values", "more", "remove the aliases, or shorten the file")
