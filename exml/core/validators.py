"""Validators for attrs that raise :class:`exml.core.errors.SettingError`."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import attrs

from exml.core.errors import SettingError

Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]


def in_range(
    low: float, high: float = math.inf, *, open_low: bool = False, optional: bool = False, integer: bool = False
) -> Validator:
    """Accept finite numbers between two bounds, both inclusive (``open_low`` excludes the lower one).

    Integers must also be below 2**63, where PyTorch's end.
    """
    most = 2**63 - 1 if integer else sys.float_info.max
    kind = "an integer" if integer else "a number"
    left = f"> {low}" if open_low else f">= {low}"
    expected = f"{kind} {left}" + ("" if math.isinf(high) else f" and <= {high}") + (" or None" if optional else "")

    def check(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is None and optional:
            return
        types = (int,) if integer else (int, float)
        number = value if isinstance(value, types) and not isinstance(value, bool) else math.nan
        if not (low <= number <= high and abs(number) <= most) or (open_low and number == low):
            raise field_error(instance, attribute, value, expected, f"set {attribute.name} within it")

    return check


def positive_int(most: int = 2**24, *, optional: bool = False) -> Validator:
    """Accept integers from 1 to ``most``, by default 16,777,216."""
    return in_range(1, most, integer=True, optional=optional)


def one_of(*choices: object) -> Validator:
    """Accept one of several values."""

    def check(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value not in choices:
            raise field_error(
                instance, attribute, value, "one of " + ", ".join(map(repr, choices)), "choose one of them"
            )

    return check


def field_error(instance: Any, attribute: attrs.Attribute[Any], value: Any, expected: str, remedy: str) -> SettingError:
    """The error of a validator for a value of a field."""
    name = f"{type(instance).__name__}.{attribute.name}"
    return SettingError(expected=f"{expected} for {name}", got=repr(value), remedy=remedy)
