"""Conversion of components to plain data (dicts, lists, numbers, strings) and back; faults are named by their path."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import attrs
import cattrs
from cattrs.errors import (
    AttributeValidationNote,
    ForbiddenExtraKeysError,
    IterableValidationNote,
    StructureHandlerNotFoundError,
)
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from exml.core.errors import ConfigError, ExmlError, SettingError
from exml.core.registry import class_of, kind_of, noun_of

T = TypeVar("T")
Plain = Any
"""Data that JSON can represent."""
OMIT_DEFAULT: Mapping[str, bool] = MappingProxyType({"omit_default": True})
"""Metadata of a field that is left out of plain data where it has its default, as if it did not exist."""


class Settings(Mapping[str, Any]):
    """Immutable settings by name: numbers, strings, booleans, None, and lists of these, which become tuples.

    >>> from exml.core.serialization import Settings
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


def leaves(value: Plain, path: str = "") -> Iterator[tuple[str, str | int | float | bool]]:
    """The path and the value of every leaf of plain data but None; the kind of a component has the component's path.

    >>> from exml.core.serialization import leaves
    >>> dict(leaves({"loss": {"kind": "distillation", "cross_entropy": 1.0}, "mean": [0.5, 0.4], "prior": None}))
    {'loss': 'distillation', 'loss.cross_entropy': 1.0, 'mean': '0.5, 0.4'}
    """
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from leaves(item, path if name == "kind" and path else f"{path}.{name}" if path else str(name))
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        for place, item in enumerate(value):
            yield from leaves(item, f"{path}.{place}")
    elif value is not None:
        yield path, ", ".join(map(str, value)) if isinstance(value, list | tuple) else value


def to_plain(part: object) -> Plain:
    """A component as plain data, tagged with its ``kind``; it must be registered with ``@exml.component``.

    >>> from exml.core.serialization import to_plain
    >>> from exml.priors import L2Norm
    >>> to_plain(L2Norm(0.5))
    {'kind': 'l2-norm', 'weight': 0.5}
    """
    return _converter().unstructure(part)


def from_plain(plain: Plain, cls: type[T], path: str = "") -> T:
    """The inverse of :func:`to_plain`; ``cls`` is a class, or the protocol of a component family.

    The first fault (an unknown key, a missing one, a wrong type, an unknown kind) raises a
    :class:`exml.core.errors.ConfigError` with its path, which starts with ``path``.
    """
    try:
        return _converter().structure(plain, cls)
    except Exception as error:
        raise _first_fault(error, path) from None


def _misfit(expected: str, value: object) -> SettingError:
    return SettingError(expected=expected, got=repr(value), remedy="correct the value")


def _first_fault(error: BaseException, path: str) -> ConfigError:
    """Descend cattrs' groups of errors to the first leaf, and collect the path on the way."""
    if isinstance(error, ForbiddenExtraKeysError):
        extra = min(map(str, error.extra_fields))
        expected = "one of the keys " + ", ".join(field.name for field in attrs.fields(error.cl))
        return ConfigError(_join(path, extra), expected=expected, got=repr(extra), remedy="remove or rename it")
    if isinstance(error, ExceptionGroup):
        faults = error.exceptions  # an unknown key explains a missing one, so it comes first
        first = next((fault for fault in faults if isinstance(fault, ForbiddenExtraKeysError)), faults[0])
        for note in getattr(first, "__notes__", ()):
            if isinstance(note, IterableValidationNote):
                path = f"{path}[{note.index}]"
            elif isinstance(note, AttributeValidationNote):
                path = _join(path, note.name)
        return _first_fault(first, path)
    if isinstance(error, ExmlError):
        return ConfigError(path, expected=error.expected, got=error.got, remedy=error.remedy)
    if isinstance(error, KeyError):
        return ConfigError(path, expected="a value", got="no such key", remedy=f"add the key {error.args[0]!r}")
    if isinstance(error, StructureHandlerNotFoundError):
        remedy = "annotate it with bool, int, float, str, a tuple of these, or a protocol of exml.protocols"
        got = f"one of {error.type_}"
        return ConfigError(path, expected="a field of a type that YAML can store", got=got, remedy=remedy)
    got = f"{type(error).__name__}: {error}"
    return ConfigError(path, expected="a value that fits", got=got, remedy="correct the value")


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _strict(cls: type[Any], *others: type[Any]) -> Callable[[Any, Any], Any]:
    """Accept only the types themselves, where cattrs would convert (``int("3")``, ``int(2.5)``)."""

    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, (cls, *others)) or (isinstance(value, bool) and cls is not bool):
            raise _misfit(f"a value of type {cls.__name__}", value)
        return cls(value)

    return structure


def _structure_protocol(value: Any, protocol: Any) -> Any:
    """Any registered component that fits a protocol, by its kind."""
    if not isinstance(value, Mapping) or not isinstance(value.get("kind"), str):
        raise _misfit(f"a {noun_of(protocol)}: a mapping with its kind", value)
    return _converter().structure(value, class_of(value["kind"], protocol))


def _structure_union(value: Any, union: Any) -> Any:
    """The first member of the union that fits; literals come before types."""
    if value is None and NoneType in get_args(union):
        return None
    members = [member for member in get_args(union) if member is not NoneType]
    members.sort(key=lambda member: get_origin(member) is not Literal)
    if isinstance(value, Mapping):  # only one member can be meant, so name its fault
        members = [member for member in members if get_origin(member) is not Literal][:1]
    for member in members:
        try:
            return _converter().structure(value, member)
        except Exception:
            if len(members) == 1:
                raise
    raise _misfit(" or ".join(getattr(member, "__name__", str(member)) for member in members), value)


def _structure_tuple(value: Any, cls: Any) -> Any:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise _misfit("a list", value)
    kinds = get_args(cls)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise _misfit(f"a list of {len(kinds)}", value)
    faults, parts = list[Exception](), list[Any]()
    for index, (item, kind) in enumerate(zip(value, kinds, strict=True)):
        try:
            parts.append(_converter().structure(item, kind))
        except Exception as fault:
            fault.add_note(IterableValidationNote(f"at index {index}", index, kind))
            faults.append(fault)
    if faults:
        raise ExceptionGroup("in a list", faults)
    return tuple(parts)


def _structure_mapping(value: Any, _: Any) -> Any:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise _misfit("a mapping of settings", value)
    return value


def _structure_mapping_of(cls: Any) -> Callable[[Any, Any], Any]:
    inner: Callable[[Any, Any], Any] = _converter().gen_structure_mapping(cls)

    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, Mapping):
            raise _misfit("a mapping", value)
        return inner(value, cls)

    return structure


def _structure_literal(value: Any, literal: Any) -> Any:
    if not any(type(value) is type(choice) and value == choice for choice in get_args(literal)):
        raise _misfit("one of " + ", ".join(map(repr, get_args(literal))), value)
    return value


def _structure_attrs(cls: type[Any]) -> Callable[[Any, Any], Any]:
    inner = make_dict_structure_fn(cls, _converter(), _cattrs_forbid_extra_keys=True, _cattrs_use_alias=True)

    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, Mapping):
            raise _misfit(f"a mapping of {cls.__name__}'s fields", value)
        fields = dict(value)
        kind = fields.pop("kind", None)
        if kind is not None and kind != kind_of(cls):
            raise _misfit(f"kind {kind_of(cls)!r}", kind)
        return inner(fields, cls)

    return structure


def _unstructure_attrs(cls: type[Any]) -> Callable[[Any], Any]:
    optional = {field.name for field in attrs.fields(cls) if field.metadata.get("omit_default")}
    left_out: dict[str, Any] = {name: override(omit_if_default=True) for name in optional}
    inner = make_dict_unstructure_fn(cls, _converter(), _cattrs_use_alias=True, **left_out)
    kind = kind_of(cls)
    return lambda part: {"kind": kind, **inner(part)}


@cache
def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    converter.register_structure_hook_factory(attrs.has, _structure_attrs)
    converter.register_unstructure_hook_factory(attrs.has, _unstructure_attrs)
    converter.register_structure_hook_func(lambda cls: get_origin(cls) is tuple, _structure_tuple)
    converter.register_unstructure_hook_func(
        lambda cls: get_origin(cls) is tuple, lambda parts: [converter.unstructure(part) for part in parts]
    )
    converter.register_structure_hook_factory(lambda cls: get_origin(cls) is Mapping, _structure_mapping_of)
    converter.register_structure_hook_func(lambda cls: cls == Mapping[str, Any], _structure_mapping)
    converter.register_unstructure_hook_func(
        lambda cls: cls == Mapping[str, Any], lambda settings: json.loads(json.dumps(dict(settings)))
    )
    converter.register_structure_hook_func(lambda cls: get_origin(cls) is Literal, _structure_literal)
    converter.register_structure_hook_func(lambda cls: get_origin(cls) in (Union, UnionType), _structure_union)
    converter.register_unstructure_hook_func(
        lambda cls: get_origin(cls) in (Union, UnionType) or getattr(cls, "_is_protocol", False),
        lambda part: converter.unstructure(part, unstructure_as=type(part)),
    )
    converter.register_structure_hook_func(lambda cls: getattr(cls, "_is_protocol", False), _structure_protocol)
    for cls in (int, bool, str):
        converter.register_structure_hook(cls, _strict(cls))
    converter.register_structure_hook(float, _strict(float, int))
    return converter
