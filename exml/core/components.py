"""Traversal of a strategy, or of any component with components in its fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import attrs


def walk(part: object, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path and the object of every component in a tree, outer ones before inner ones.

    >>> from exml.core.components import walk
    >>> from exml.priors import L2Norm, Sum, Weighted
    >>> for path, prior in walk(Sum((L2Norm(1.0), Weighted(L2Norm(2.0), 0.5))), "prior"):
    ...     print(path, type(prior).__name__)
    prior Sum
    prior.priors[0] L2Norm
    prior.priors[1] Weighted
    prior.priors[1].prior L2Norm
    """
    if isinstance(part, tuple):
        for index, item in enumerate(part):
            yield from walk(item, f"{path}[{index}]")
    elif attrs.has(type(part)):
        yield path, part
        for field in attrs.fields(type(part)):
            yield from walk(getattr(part, field.name), f"{path}.{field.name}" if path else field.name)


def rebuild(part: Any, change: Callable[[Any], Any]) -> Any:
    """Replace every component of a tree by ``change(component)``, inner ones before outer ones.

    >>> import attrs
    >>> from exml.core.components import rebuild
    >>> from exml.priors import L2Norm, Sum
    >>> def double(prior):
    ...     return attrs.evolve(prior, weight=2 * prior.weight) if isinstance(prior, L2Norm) else prior
    >>> rebuild(Sum((L2Norm(1.0), L2Norm(3.0))), double)
    Sum(priors=(L2Norm(weight=2.0), L2Norm(weight=6.0)))
    """
    if isinstance(part, tuple):
        items = tuple(rebuild(item, change) for item in part)
        return part if all(new is old for new, old in zip(items, part, strict=True)) else items
    if not attrs.has(type(part)):
        return part
    changes: dict[str, Any] = {}
    for field in attrs.fields(type(part)):
        value = getattr(part, field.name)
        if field.init and (new := rebuild(value, change)) is not value:
            changes[field.alias] = new
    return change(attrs.evolve(part, **changes) if changes else part)


def uses_real_data(part: object) -> bool:
    """Whether a strategy, or any component in it, reads the experts' own training data (Sec. 5, "Replay").

    >>> from exml.core.components import uses_real_data
    >>> from exml.generators import AuxiliaryData, PhotoPatches, Replay
    >>> uses_real_data(Replay(PhotoPatches())), uses_real_data(AuxiliaryData(PhotoPatches()))
    (True, False)
    """
    return any(getattr(component, "uses_real_data", False) for _, component in walk(part))
