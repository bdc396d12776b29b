"""Scenarios by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias, TypeVar

from exml.errors import SettingError, UnknownNameError
from exml.scenarios.scenario import Scenario

Split: TypeAlias = Literal["test", "validation"]
"""Which images the experiences are tested on; no expert was trained on either part."""
FactoryT = TypeVar("FactoryT", bound=Callable[[int, Split], Scenario])
_FACTORIES: dict[str, Callable[[int, Split], Scenario]] = {}


def names() -> tuple[str, ...]:
    """The registered scenarios, sorted.

    >>> "digits-nc" in names()
    True
    """
    return tuple(sorted(_FACTORIES))


def register(name: str, /) -> Callable[[FactoryT], FactoryT]:
    """Give a function ``(seed, split)`` that makes a scenario a name, also for the command line.

    Raises:
        SettingError: if something else has this name.

    >>> @register("digits-backwards")
    ... def digits_backwards(seed: int, split: Split) -> Scenario:
    ...     import attrs
    ...     digits = load("digits-nc", seed, split)
    ...     return attrs.evolve(digits, experiences=digits.experiences[::-1])
    >>> load("digits-backwards").experiences[-1].index
    1
    >>> del _FACTORIES["digits-backwards"]
    """

    def decorate(factory: FactoryT) -> FactoryT:
        known = _FACTORIES.get(name)
        place = f"{factory.__module__}.{factory.__qualname__}"
        if known is not None and f"{known.__module__}.{known.__qualname__}" != place:
            raise SettingError(
                expected=f"a name of its own for {place}",
                got=f"{name!r}, which is {known.__module__}.{known.__qualname__}",
                remedy="register it under another name",
            )
        _FACTORIES[name] = factory
        return factory

    return decorate


def load(name: str, seed: int = 0, split: Split = "test") -> Scenario:
    """Make a scenario.

    Args:
        name: one of :func:`names`.
        seed: for the order of the classes, or which images go where.
        split: what the experiences' ``test`` is: the test set, or a part of the rest that no expert was trained on
            either, with which settings are chosen without a look at the test set.

    Raises:
        UnknownNameError: when nobody registered the name.
        SettingError: when the split is neither.

    >>> len(load("digits-joint").experiences), len(load("digits-nc", split="validation").experiences)
    (1, 5)
    """
    if name not in _FACTORIES:
        raise UnknownNameError(
            expected=f"one of {', '.join(names())}",
            got=repr(name),
            remedy="check the spelling, or import the module that registers it with exml.scenarios.register",
        )
    if split not in ("test", "validation"):
        raise SettingError(expected="split 'test' or 'validation'", got=repr(split), remedy="choose one of them")
    return _FACTORIES[name](seed, split)
