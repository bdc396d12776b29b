"""The families of components, and which component can stand where.

A role is a noun with a protocol; ``isinstance`` is too coarse a check for protocols, since it does not look at the
parameters of a call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

ProtocolT = TypeVar("ProtocolT", bound=type[Any])
_ROLES: dict[str, type[Any]] = {}
ROLES: Mapping[str, type[Any]] = MappingProxyType(_ROLES)
"""The protocol of each family, by the noun that names the family everywhere; filled by :mod:`exml.protocols`."""


def role(noun: str, /) -> Callable[[ProtocolT], ProtocolT]:
    """Declare a protocol to be the contract of a family of components."""

    def declare(protocol: ProtocolT) -> ProtocolT:
        _ROLES[noun] = protocol
        return protocol

    return declare


def _parameters(call: Any) -> list[str] | None:
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return None
    return [parameter.name for parameter in parameters if parameter.kind is not parameter.KEYWORD_ONLY]


def plays(part: object, role: str, /) -> bool:
    """Whether a component has the attributes and the call of a role.

    A call with the very parameter names of another role plays that other role; otherwise their number decides.

    >>> from exml.normalizers import CenterLogits
    >>> plays(CenterLogits(), "normalizer"), plays(CenterLogits(), "combiner")
    (True, False)
    """
    if isinstance(part, type) or not isinstance(part, ROLES[role]):
        return False
    names = _parameters(part)
    if names is None:
        return True
    wanted = {noun: _wanted(protocol) for noun, protocol in ROLES.items()}
    exact = [noun for noun, expected in wanted.items() if names == expected]
    return role in exact if exact else len(names) == len(wanted[role])


def _wanted(protocol: type[Any]) -> list[str]:
    return list(inspect.signature(protocol.__call__).parameters)[1:]
