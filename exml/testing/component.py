"""What holds for every component."""

from __future__ import annotations

import copy
from typing import Any

import attrs

from exml.core.errors import UnknownNameError
from exml.core.registry import kind_of, plays
from exml.core.serialization import from_plain, to_plain


def require(holds: bool, what: str, component: object) -> None:
    """Raise an AssertionError that says what a component must do and does not."""
    if not holds:
        raise AssertionError(f"{type(component).__name__} {what}")


def check_component(component: Any, role: str) -> None:
    """A component is frozen, prints, compares and hashes by its settings, plays its role, and serialises.

    Args:
        component: an instance with settings that are not all defaults, if it has any.
        role: ``generator``, ``prior``, ``augmentation``, ``normalizer``, ``combiner``, ``buffer`` or ``loss``.

    Raises:
        AssertionError: naming the first property that does not hold.

    >>> from exml.priors import L2Norm
    >>> check_component(L2Norm(0.5), "prior")
    >>> check_component(L2Norm(0.5), "loss")
    Traceback (most recent call last):
    AssertionError: L2Norm must have the attributes and the call of a loss
    """
    cls = type(component)
    require(attrs.has(cls), "must be an attrs class", component)
    fields = attrs.fields(cls)
    require(plays(component, role), f"must have the attributes and the call of a {role}", component)
    twin = copy.deepcopy(component)
    require(twin == component, "must equal a copy of itself", component)
    require(hash(twin) == hash(component), "must hash as its copy does", component)
    shown = all(field.name.lstrip("_") in repr(component) for field in fields if field.repr is True)
    require(cls.__name__ in repr(component) and shown, "must print its name and its settings", component)
    for field in fields:
        try:
            setattr(component, field.name, getattr(component, field.name))
        except attrs.exceptions.FrozenError:
            continue
        raise AssertionError(f"{cls.__name__} must be frozen: {field.name} could be set")
    try:
        kind = kind_of(cls)
    except UnknownNameError:
        raise AssertionError(f"{cls.__name__} must be registered with @exml.component to serialise") from None
    plain = to_plain(component)
    require(plain.get("kind") == kind, "must be tagged by its kind", component)
    require(from_plain(plain, cls) == component, "must come back from plain data as it was", component)
