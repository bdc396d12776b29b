"""Conformance of every component."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import attrs
from torch import Tensor

from exml.core.errors import ExmlError, UnknownNameError, printable
from exml.core.outputs import described
from exml.core.registry import ROLES, kind_of, misfit
from exml.core.serialization import Settings, from_plain, to_plain


def found(value: object) -> object:
    """The shape of a tensor, or the class of anything else."""
    return tuple(value.shape) if isinstance(value, Tensor) else described(value)


@contextmanager
def success(component: object, what: str, remedy: str = "") -> Generator[None]:
    """Turn an error of exml inside the block into an AssertionError, and with a remedy any other error as well."""
    must = requirement(component)
    try:
        yield
    except ExmlError as error:
        must(False, f"{what}: expected {error.expected}", error.remedy, error.got)
    except Exception as error:
        if not remedy:
            raise
        must(False, what, remedy, printable(f"{type(error).__name__}: {error}"))


def requirement(component: object) -> Callable[..., None]:
    """A function of whether the component does something, what, the remedy, and what it does instead, if that tells.

    It raises an AssertionError unless the component does it.
    """
    name = component.__name__ if isinstance(component, type) else type(component).__name__

    def must(holds: bool, what: str, remedy: str, got: object = None, /) -> None:
        if not holds:
            seen = "" if got is None else f", got {got}"
            raise AssertionError(f"{name} must {what}{seen}; remedy: {remedy}")

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
    AssertionError: L2Norm must have the attributes and the call of a loss,
    got its call takes (images, activations), not (logits, target, labels); remedy: compare it with exml.protocols.Loss
    """
    require_value(component)
    why, remedy = misfit(component, role), f"compare it with exml.protocols.{ROLES[role].__name__}"
    requirement(component)(why is None, f"have the attributes and the call of a {role}", remedy, why)


def require_value(component: Any) -> None:
    """The part of :func:`check_component` that is the same for every role."""
    cls, must = type(component), requirement(component)
    must(not isinstance(component, type), "be an instance", "pass an object of the class", "the class itself")
    must(attrs.has(cls), "be an attrs class", "decorate it with @attrs.frozen")
    fields = attrs.fields(cls)
    for field in fields:
        value = getattr(component, field.name)
        remedy = "use None, booleans, numbers, strings, components, and tuples of these"
        got = f"{field.name} of type {type(value).__name__}"
        must(_storable(value), "have settings that YAML can store", remedy, got)
    twin = copy.deepcopy(component)
    must(twin == component, "equal a copy of itself", "compare by settings, as attrs does")
    must(hash(twin) == hash(component), "hash like its copy", "use settings that hash by value")
    shown = all(field.name.lstrip("_") in repr(component) for field in fields if field.repr is True)
    must(cls.__name__ in repr(component) and shown, "print its name and its settings", "keep the repr of attrs")
    for field in fields:
        try:
            setattr(component, field.name, getattr(component, field.name))
        except attrs.exceptions.FrozenError:
            continue
        must(False, f"be frozen, but {field.name} can be set", "use @attrs.frozen")
    try:
        kind = kind_of(cls)
    except UnknownNameError:
        must(False, "be registered to serialize", "decorate it with @exml.component")
        return
    remedy = "annotate settings with bool, int, float, str, a tuple of these, or a protocol of exml.protocols"
    with success(component, "serialize", remedy):
        plain = to_plain(component)
        same = from_plain(plain, cls) == component
    must(plain.get("kind") == kind, "be tagged by its kind", "do not override its serialization")
    must(same, "survive a round trip through plain data", "use settings of plain types or components")


def _storable(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_storable, value))
    return value is None or isinstance(value, bool | int | float | str | Settings) or attrs.has(type(value))
