"""Components by *kind*, their name in files, and by *role*, the noun of their family, such as ``"prior"``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar, overload

import attrs
from typing_extensions import get_protocol_members

from exml.core.errors import SettingError, UnknownNameError, did_you_mean

ClassT = TypeVar("ClassT", bound=type[Any])
_KINDS: dict[str, type[Any]] = {}
_ROLES: dict[str, type[Any]] = {}
ROLES: Mapping[str, type[Any]] = MappingProxyType(_ROLES)
"""The protocol of each family, by its role."""


def role(noun: str, /) -> Callable[[ClassT], ClassT]:
    """Declare a protocol to be the contract of a family of components."""

    def declare(protocol: ClassT) -> ClassT:
        _ROLES[noun] = protocol
        return protocol

    return declare


def misfit(part: object, role: str, /) -> str | None:
    """Why a component does not play a role; None if it does.

    In addition to ``isinstance``, this compares the parameters of the call. A call with exactly the parameter names of
    a role plays that role and no other; otherwise the number of parameters decides. So every protocol of components
    must be declared as a role, even if no part of a strategy plays it.

    >>> from exml.core.registry import misfit
    >>> from exml.normalizers import CenterLogits
    >>> misfit(CenterLogits(), "normalizer")
    >>> misfit(CenterLogits(), "combiner")
    'its call takes (logits, known), not (previous, expert, samples)'
    """
    if isinstance(part, type):
        return "it is a class, not an instance"
    return _misfit(lambda name: hasattr(part, name), _parameters(part), ROLES[role])


def noun_of(protocol: type[Any], /) -> str:
    """The role of a protocol, or its name in lower case if it has no role."""
    return next((noun for noun, known in ROLES.items() if known is protocol), protocol.__name__.lower())


def kind_of(cls: type[Any], /) -> str:
    """The kind under which a component class is registered; the inverse of :func:`class_of`."""
    kind = next((kind for kind, known in _KINDS.items() if known is cls), None)
    if kind is None:
        remedy = "decorate the class with @exml.component"
        raise UnknownNameError(expected="a registered component", got=cls.__name__, remedy=remedy)
    return kind


def class_of(kind: str, protocol: type[Any] | None = None, /) -> type[Any]:
    """The class of a kind, which must fit a protocol if one is given; an UnknownNameError lists the kinds that fit.

    >>> from exml.core.registry import class_of
    >>> class_of("l2-norm").__name__
    'L2Norm'
    """
    cls = _KINDS.get(kind)
    if cls is not None and (protocol is None or _class_fits(cls, protocol)):
        return cls
    fitting = [name for name, known in _KINDS.items() if protocol is None or _class_fits(known, protocol)]
    families = [f"a {noun}" for noun, known in ROLES.items() if cls is not None and _class_fits(cls, known)]
    expected = f"a {noun_of(protocol) if protocol else 'component'}, one of {', '.join(sorted(fitting))}"
    got = f"{kind!r}, {' and '.join(families)}" if families else repr(kind)
    otherwise = "check the spelling, or import the module that defines it first, on the command line with --import"
    remedy = did_you_mean(kind, fitting, otherwise)
    raise UnknownNameError(expected=expected, got=got, remedy=remedy)


@overload
def component(cls: ClassT, /) -> ClassT: ...
@overload
def component(*, kind: str) -> Callable[[ClassT], ClassT]: ...
def component(cls: Any = None, /, *, kind: str | None = None) -> Any:
    """Register a frozen attrs class under a kind that no other class has, by default its name in kebab case.

    >>> from exml import component
    >>> from exml.core.registry import kind_of
    >>> import attrs
    >>> @component
    ... @attrs.frozen
    ... class Sepia:
    ...     strength: float = 0.5
    >>> kind_of(Sepia)
    'sepia'
    """

    def register(cls: type[Any]) -> type[Any]:
        words = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z0-9])(?=[A-Z][a-z])", "-", cls.__name__)
        name = kind or words.lower()
        if not attrs.has(cls) or cls.__setattr__ is object.__setattr__:
            remedy = "put @attrs.frozen below @exml.component"
            raise SettingError(expected="a frozen attrs class", got=cls.__name__, remedy=remedy)
        known = _KINDS.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            got = f"{name!r}, which is {known.__module__}.{known.__qualname__}"
            remedy = "name it with @exml.component(kind=...)"
            raise SettingError(expected=f"an unused kind for {cls.__qualname__}", got=got, remedy=remedy)
        _KINDS[name] = cls
        return cls

    return register if cls is None else register(cls)


def _class_fits(cls: type[Any], protocol: type[Any]) -> bool:
    members = {name for base in cls.__mro__ for name in vars(base)} | attrs.fields_dict(cls).keys()
    parameters = _parameters(cls.__call__)  # of the metaclass, if the class has none
    return _misfit(members.__contains__, None if parameters is None else parameters[1:], protocol) is None


def _misfit(has: Callable[[str], bool], parameters: list[str] | None, protocol: type[Any]) -> str | None:
    lacks = [name for name in sorted(get_protocol_members(protocol)) if not has(name)]
    if lacks:
        return "it has no " + " and no ".join(map(repr, lacks))
    wanted = _wanted(protocol)
    namesakes = [known for known in ROLES.values() if parameters == _wanted(known)]
    fits = protocol in namesakes if namesakes else parameters is None or len(parameters) == len(wanted)
    return None if fits else f"its call takes ({', '.join(parameters or ())}), not ({', '.join(wanted)})"


def _wanted(protocol: type[Any]) -> list[str]:
    return (_parameters(protocol.__call__) or [])[1:]


def _parameters(call: Any) -> list[str] | None:
    """The names of the positional parameters; None where their number is open or unknown."""
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return None
    return [parameter.name for parameter in parameters if parameter.kind is not parameter.KEYWORD_ONLY]
