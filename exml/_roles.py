"""Which component can stand where: a run-time check of the protocols that ``isinstance`` is too coarse for."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from exml._types import Augmentation, BufferPolicy, Combiner, Generator, Loss, Normalizer, Prior

ROLES: Mapping[str, type[Any]] = MappingProxyType(
    {
        "generator": Generator,
        "prior": Prior,
        "augmentation": Augmentation,
        "normalizer": Normalizer,
        "combiner": Combiner,
        "buffer": BufferPolicy,
        "loss": Loss,
    }
)
"""The families of components by the noun that names them everywhere."""


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

    >>> from exml.losses import CenterLogits
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
