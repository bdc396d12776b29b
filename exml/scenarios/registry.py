"""Scenarios by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias, TypeVar

import attrs

from exml.core.errors import SettingError, UnknownNameError, nearest
from exml.experts import ExpertTraining
from exml.scenarios._settings import changed
from exml.scenarios.scenario import Scenario

Split: TypeAlias = Literal["test", "validation"]
"""The images that the experiences are tested on; no expert is trained on either part."""
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
    """Register a function ``(seed, split)`` that makes a scenario, for code and the command line.

    Args:
        name: the scenario's name.
        description: the text of :func:`describe`; without it, the scenario is loaded to be described.

    Raises:
        SettingError: when another function has this name.

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
        known = _FACTORIES.get(name, factory)
        own, other = (f"{function.__module__}.{function.__qualname__}" for function in (factory, known))
        if own != other:
            raise SettingError(
                expected=f"a name of its own for {own}",
                got=f"{name!r}, which is {other}",
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
        name: one of :func:`names`. Settings of the experts' training may follow a colon: fields of
            :class:`~exml.experts.ExpertTraining`, where an augmentation is ``none`` or a named one of
            :class:`~exml.augmentation.Augmentation`. The scenario's name is all of this.
        seed: for the order of the classes, or the deal of the images.
        split: the ``test`` part of the experiences: the test set, or the validation set, on which settings are chosen
            without a look at the test set.

    Raises:
        UnknownNameError: for an unregistered name, listing the nearest first.
        SettingError: for another split, or a setting that the training does not have.
        DataError: when the scenario's data are not there.

    >>> len(load("digits-joint").experiences), len(load("digits-nc", split="validation").experiences)
    (1, 5)
    >>> load("digits-nc:epochs=4,learning_rate=0.05,schedule=cosine").training
    ExpertTraining(epochs=4, batch_size=32, learning_rate=0.05, momentum=0.9, weight_decay=0.0005, schedule='cosine',
        augmentation=None, precision='float32')
    """
    base, settings = _parse(name)
    if split not in ("test", "validation"):
        raise SettingError(expected="split 'test' or 'validation'", got=repr(split), remedy="choose one of them")
    scenario = _FACTORIES[base](seed, split)
    if settings is None:
        return scenario
    return attrs.evolve(scenario, name=name, training=changed(scenario.training, settings, name))


def describe(name: str) -> str:
    """One line about a scenario with seed 0; the settings of its training are checked, but not described.

    Args:
        name: as for :func:`load`.

    Raises:
        UnknownNameError: for an unregistered name, listing the nearest first.
        SettingError: for a setting that the training does not have.

    >>> describe("digits-mt")
    '5 experiences of 2 classes (10 in all), task labels, images 1x8x8'
    """
    base, settings = _parse(name)
    if settings is not None:
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


def _parse(name: str) -> tuple[str, str | None]:
    """The registered name, and the settings after the colon."""
    base, colon, settings = name.partition(":")
    if name in _FACTORIES:
        return name, None
    if base not in _FACTORIES:
        raise UnknownNameError(
            expected=f"one of {', '.join(nearest(base, names()))}",
            got=repr(base),
            remedy="check the spelling, or import the module that registers it with exml.scenarios.register",
        )
    return base, settings if colon else None
