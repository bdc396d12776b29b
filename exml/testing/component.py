"""Conformance of every component."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import attrs

from exml.core.errors import UnknownNameError
from exml.core.registry import kind_of, misfit
from exml.core.serialization import from_plain, to_plain


def requirement(component: object) -> Callable[[bool, str], None]:
    """A function that raises an AssertionError with what the component must do, and the remedy, unless it does."""

    def must(holds: bool, what: str) -> None:
        if not holds:
            raise AssertionError(f"{type(component).__name__} must {what}")

    return must


def check_component(component: Any, role: str) -> None:
    """Check that a component is frozen, prints, compares and hashes by its settings, has its role, and serializes.

    Args:
        component: an instance, preferably with settings other than the defaults.
        role: ``generator``, ``prior``, ``augmentation``, ``normalizer``, ``calibration``, ``combiner``,
            ``buffer`` or ``loss``.

    >>> from exml.testing import check_component
    >>> from exml.priors import L2Norm
    >>> check_component(L2Norm(0.5), "prior")
    >>> check_component(L2Norm(0.5), "loss")
    Traceback (most recent call last):
    AssertionError: L2Norm must have the attributes and the call of a loss: see the protocol in exml.protocols
    """
    cls, must = type(component), requirement(component)
    must(attrs.has(cls), "be an attrs class: decorate it with @attrs.frozen")
    fields = attrs.fields(cls)
    fits = misfit(component, role) is None
    must(fits, f"have the attributes and the call of a {role}: see the protocol in exml.protocols")
    twin = copy.deepcopy(component)
    must(twin == component, "equal a copy of itself: compare by settings, as attrs does")
    must(hash(twin) == hash(component), "hash like its copy: use settings that hash by value")
    shown = all(field.name.lstrip("_") in repr(component) for field in fields if field.repr is True)
    must(cls.__name__ in repr(component) and shown, "print its name and its settings: keep the repr of attrs")
    for field in fields:
        try:
            setattr(component, field.name, getattr(component, field.name))
        except attrs.exceptions.FrozenError:
            continue
        must(False, f"be frozen, but {field.name} can be set: use @attrs.frozen")
    try:
        kind = kind_of(cls)
    except UnknownNameError:
        must(False, "be registered to serialize: decorate it with @exml.component")
        return
    plain = to_plain(component)
    must(plain.get("kind") == kind, "be tagged by its kind: do not override its serialization")
    same = from_plain(plain, cls) == component
    must(same, "survive a round trip through plain data: use settings of plain types or components")
