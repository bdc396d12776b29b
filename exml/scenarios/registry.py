"""Scenarios by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias, TypeVar

import attrs

from exml.core.errors import SettingError, UnknownNameError
from exml.experts import ExpertTraining
from exml.scenarios._settings import changed
from exml.scenarios.scenario import Scenario

Split: TypeAlias = Literal["test", "validation"]
"""Which images the experiences are tested on; no expert was trained on either part."""
FactoryT = TypeVar("FactoryT", bound=Callable[[int, Split], Scenario])
_FACTORIES: dict[str, Callable[[int, Split], Scenario]] = {}
_DESCRIPTIONS: dict[str, str] = {}


def names() -> tuple[str, ...]:
    """The registered scenarios, sorted.

    >>> "digits-nc" in names()
    True
    """
    return tuple(sorted(_FACTORIES))


def register(name: str, /, *, description: str | None = None) -> Callable[[FactoryT], FactoryT]:
    """Give a function ``(seed, split)`` that makes a scenario a name, also for the command line.

    Args:
        name: the name.
        description: what :func:`describe` shall say, for a scenario that is made of data which may have to be fetched.

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
        if description is not None:
            _DESCRIPTIONS[name] = description
        return factory

    return decorate


def load(name: str, seed: int = 0, split: Split = "test") -> Scenario:
    """Make a scenario.

    Args:
        name: one of :func:`names`; after a colon it may change settings of how the experts are trained, the fields of
            :class:`~exml.experts.ExpertTraining`. An augmentation is one of those that
            :class:`~exml.augmentation.Augmentation` has a name for, or ``none``. All of this is the scenario's name.
        seed: for the order of the classes, or which images go where.
        split: what the experiences' ``test`` is: the test set, or a part of the rest that no expert was trained on
            either, with which settings are chosen without a look at the test set.

    Raises:
        UnknownNameError: when nobody registered the name.
        SettingError: when the split is neither, or there is no such setting of the training.

    >>> len(load("digits-joint").experiences), len(load("digits-nc", split="validation").experiences)
    (1, 5)
    >>> load("digits-nc:epochs=4,learning_rate=0.05,schedule=cosine").training
    ExpertTraining(epochs=4, batch_size=32, learning_rate=0.05, momentum=0.9, weight_decay=0.0005, schedule='cosine',
        augmentation=None, precision='float32')
    """
    factory = _factory(name)
    if split not in ("test", "validation"):
        raise SettingError(expected="split 'test' or 'validation'", got=repr(split), remedy="choose one of them")
    scenario = factory(seed, split)
    _, colon, settings = name.partition(":")
    if not colon or name in _FACTORIES:
        return scenario
    return attrs.evolve(scenario, name=name, training=changed(scenario.training, settings, name))


def describe(name: str) -> str:
    """What a scenario is with seed 0, in a line; one that was registered with a description is not made for it.

    Args:
        name: as in :func:`load`; how the experts are trained is not said.

    Raises:
        UnknownNameError: when nobody registered the name.
        SettingError: when there is no such setting of the training.

    >>> describe("digits-mt")
    '5 experiences of 2 classes (10 in all), task labels, images 1x8x8'
    """
    _factory(name)
    base, colon, settings = name.partition(":")
    if name in _FACTORIES:
        base, colon = name, ""
    if colon:
        changed(ExpertTraining(), settings, name)
    if base in _DESCRIPTIONS:
        return _DESCRIPTIONS[base]
    scenario = load(base)
    length, total = len(scenario.experiences), scenario.classes
    counts = sorted({len(experience.classes) for experience in scenario.experiences})
    text = f"{length} experience{'s' if length > 1 else ''} of {' or '.join(map(str, counts))} classes"
    text += f" ({total} in all)" if counts != [total] else ""
    text += ", task labels" if scenario.has_tasks else ""
    text += ", one test set" if scenario.shared_test else ""
    return f"{text}, images {'x'.join(map(str, scenario.image_shape))}"


def _factory(name: str) -> Callable[[int, Split], Scenario]:
    base = name if name in _FACTORIES else name.partition(":")[0]
    if base not in _FACTORIES:
        raise UnknownNameError(
            expected=f"one of {', '.join(names())}",
            got=repr(base),
            remedy="check the spelling, or import the module that registers it with exml.scenarios.register",
        )
    return _FACTORIES[base]
