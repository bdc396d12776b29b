"""Conversion of components to plain data (dicts, lists, numbers, strings) and back; errors name the path."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import attrs

from exml.core.errors import ConfigError, ExmlError, SettingError
from exml.core.registry import class_of, kind_of, noun_of

T = TypeVar("T")
Plain = Any
"""Data that JSON can represent."""


class Settings(Mapping[str, Any]):
    """Immutable, hashable settings by name; lists become tuples.

    Raises:
        SettingError: a value is not a number, a string, a list, a bool or None.

    >>> Settings({"degrees": [-10, 10]})
    {'degrees': (-10, 10)}
    """

    def __init__(self, values: Mapping[str, Any], /) -> None:
        self._values = {name: self._frozen(name, value) for name, value in values.items()}

    def _frozen(self, name: str, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return tuple(self._frozen(name, item) for item in value)
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise SettingError(expected=f"numbers, strings or lists for {name}", got=repr(value), remedy="convert it")

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(frozenset(self._values.items()))

    def __repr__(self) -> str:
        return repr(self._values)


def to_plain(part: object) -> Plain:
    """A component as plain data, tagged with its ``kind``.

    Raises:
        UnknownNameError: a component is not registered with ``@exml.component``.

    >>> from exml.priors import L2Norm
    >>> to_plain(L2Norm(0.5))
    {'kind': 'l2-norm', 'weight': 0.5}
    """
    if attrs.has(type(part)):
        fields = [field for field in attrs.fields(type(part)) if field.init]
        return {"kind": kind_of(type(part)), **{f.alias: to_plain(getattr(part, f.name)) for f in fields}}
    if isinstance(part, Mapping):
        return {name: to_plain(value) for name, value in part.items()}
    return [to_plain(item) for item in part] if isinstance(part, tuple | list) else part


def from_plain(plain: Plain, cls: type[T], path: str = "") -> T:
    """The inverse of :func:`to_plain`.

    Args:
        plain: from a YAML or JSON parser.
        cls: the class, or the protocol of a component family.
        path: of ``plain``, for messages.

    Raises:
        ConfigError: the first unknown or missing key, wrong type or unknown kind, with its path.
    """
    return _parse(plain, cls, path)


def _parse(value: Any, cls: Any, path: str) -> Any:
    origin, members = get_origin(cls), get_args(cls)
    if cls is Any:
        return value
    if origin in (Union, UnionType):
        return _parse_union(value, members, path)
    if origin is Literal:
        _require(value in members, path, "one of " + ", ".join(map(repr, members)), value)
        return value
    if origin is tuple:
        return _parse_tuple(value, members, path)
    if origin in (Mapping, dict):
        named = isinstance(value, Mapping) and all(isinstance(name, str) for name in value)
        _require(named, path, "a mapping of settings", value)
        return {name: _parse(item, members[1], f"{path}[{name}]") for name, item in value.items()}
    if getattr(cls, "_is_protocol", False):
        tagged = isinstance(value, Mapping) and isinstance(value.get("kind"), str)
        _require(tagged, path, f"a {noun_of(cls)}: a mapping with its kind", value)
        with _located(path):
            cls = class_of(value["kind"], cls)
    if attrs.has(cls):
        return _parse_component(value, cls, path)
    return _parse_scalar(value, cls, path)


def _parse_scalar(value: Any, cls: Any, path: str) -> Any:
    accepted = (int, float) if cls is float else cls  # no conversion: "3" and 2.5 are not integers
    fits = isinstance(value, accepted) and (cls is bool or not isinstance(value, bool))
    _require(fits, path, f"a value of type {cls.__name__}", value)
    return cls(value)


def _parse_union(value: Any, members: tuple[Any, ...], path: str) -> Any:
    """The first member of the union that fits; literals come before types."""
    if value is None and NoneType in members:
        return None
    members = tuple(member for member in members if member is not NoneType)
    types = [member for member in members if get_origin(member) is not Literal]
    if isinstance(value, Mapping) or len(members) == 1:
        return _parse(value, (types or members)[0], path)  # the only member that can be meant, so name its fault
    for member in sorted(members, key=types.__contains__):
        try:
            return _parse(value, member, path)
        except ConfigError:
            continue
    listed = " or ".join(getattr(member, "__name__", str(member)) for member in members)
    raise ConfigError(path, expected=listed, got=repr(value), remedy="correct the value")


def _parse_tuple(value: Any, members: tuple[Any, ...], path: str) -> tuple[Any, ...]:
    _require(isinstance(value, Sequence) and not isinstance(value, str), path, "a list", value)
    if len(members) == 2 and members[1] is Ellipsis:
        members = members[:1] * len(value)
    _require(len(members) == len(value), path, f"a list of {len(members)}", value)
    items = enumerate(zip(value, members, strict=True))
    return tuple(_parse(item, member, f"{path}[{index}]") for index, (item, member) in items)


def _parse_component(value: Any, cls: Any, path: str) -> Any:
    _require(isinstance(value, Mapping), path, f"a mapping of {cls.__name__}'s fields", value)
    given = dict(value)
    kind = given.pop("kind", None)
    if kind is not None:
        _require(kind == kind_of(cls), path, f"kind {kind_of(cls)!r}", kind)
    fields = {field.alias: field for field in attrs.fields(attrs.resolve_types(cls)) if field.init}
    if unknown := given.keys() - fields.keys():
        first, keys = min(unknown, key=str), ", ".join(fields)
        raise ConfigError(
            _join(path, first), expected=f"one of the keys {keys}", got=repr(first), remedy="remove or rename it"
        )
    arguments: dict[str, Any] = {}
    for name, field in fields.items():
        if name in given:
            arguments[name] = _parse(given[name], field.type, _join(path, name))
        elif field.default is attrs.NOTHING:
            raise ConfigError(_join(path, name), expected="a value", got="no such key", remedy=f"add the key {name!r}")
    with _located(path):
        return cls(**arguments)


def _require(fits: bool, path: str, expected: str, value: object) -> None:
    if not fits:
        raise ConfigError(path, expected=expected, got=repr(value), remedy="correct the value")


@contextmanager
def _located(path: str) -> Generator[None]:
    """Add a path to an error."""
    try:
        yield
    except ExmlError as error:
        raise ConfigError(path, expected=error.expected, got=error.got, remedy=error.remedy) from None


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
