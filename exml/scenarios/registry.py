"""Scenarios by name."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal, TypeAlias, TypeVar

import attrs

from exml.augmentation import Augmentation
from exml.core.errors import ConfigError, DataError, SettingError, UnknownNameError, did_you_mean, nearest
from exml.core.registry import component
from exml.core.samples import StoredImages
from exml.core.serialization import from_plain, to_plain
from exml.core.shapes import Labels
from exml.core.validators import in_range
from exml.experts import ExpertTraining
from exml.scenarios.scenario import Scenario

Split: TypeAlias = Literal["test", "validation"]
"""The images that the experiences are tested on; no expert is trained on either part."""
FactoryT = TypeVar("FactoryT", bound=Callable[[int, Split], Scenario])
_FACTORIES: dict[str, Callable[[int, Split], Scenario]] = {}
_DESCRIPTIONS: dict[str, str] = {}
_AUGMENTATIONS = {
    "none": None,
    "mnist": Augmentation.mnist,
    "cifar10": Augmentation.cifar10,
    "core50": Augmentation.core50,
}


def names() -> tuple[str, ...]:
    """The registered scenarios, sorted.

    >>> from exml.scenarios import names
    >>> "digits-nc" in names()
    True
    """
    return tuple(sorted(_FACTORIES))


def register(name: str, /, *, description: str | None = None) -> Callable[[FactoryT], FactoryT]:
    """Register a function ``(seed, split)`` that makes a scenario, for code and the command line.

    Args:
        description: the text of :func:`describe`; without it, the scenario is loaded to be described.

    Raises:
        SettingError: when another function has this name.

    >>> from exml.scenarios import Scenario, Split, load, register
    >>> @register("digits-one-order")
    ... def digits_one_order(seed: int, split: Split) -> Scenario:
    ...     return load("digits-nc", 0, split)
    >>> load("digits-one-order", seed=7)
    Scenario('digits-nc', 5 experiences, 10 classes, images 1x8x8)
    """

    def decorate(factory: FactoryT) -> FactoryT:
        known = _FACTORIES.get(name, factory)
        own, other = (f"{function.__module__}.{function.__qualname__}" for function in (factory, known))
        if own != other:
            got, remedy = f"{name!r}, which is {other}", "register it under another name"
            raise SettingError(expected=f"a name of its own for {own}", got=got, remedy=remedy)
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
            :class:`~exml.augmentation.Augmentation`. The scenario's name includes them.
        seed: for the order of the classes, or the deal of the images.
        split: the ``test`` part of the experiences: the test set, or the validation set, for choosing settings.

    Raises:
        UnknownNameError: for an unregistered name, listing the nearest first.
        SettingError: for another split, or a setting that the training does not have.
        DataError: when the scenario's data are missing.

    >>> from exml.scenarios import load
    >>> len(load("digits-joint").experiences), len(load("digits-nc", split="validation").experiences)
    (1, 5)
    >>> load("digits-nc:epochs=4,learning_rate=0.05,schedule=cosine").training
    ExpertTraining(epochs=4, batch_size=32, learning_rate=0.05, ..., schedule='cosine', ...)
    """
    base, settings = _parse(name)
    if split not in ("test", "validation"):
        raise SettingError(expected="split 'test' or 'validation'", got=repr(split), remedy="choose one of them")
    scenario = _FACTORIES[base](seed, split)
    if settings is None:
        return scenario
    return attrs.evolve(scenario, name=name, training=_changed(scenario.training, settings, name))


def describe(name: str) -> str:
    """One line about a scenario with seed 0, without the settings of its training; for errors, see :func:`load`.

    >>> from exml.scenarios import describe
    >>> describe("digits-mt")
    '5 experiences of 2 classes (10 in all), task labels, images 1x8x8'
    """
    base, settings = _parse(name)
    if settings is not None:
        _changed(ExpertTraining(), settings, name)
    if base in _DESCRIPTIONS:
        return _DESCRIPTIONS[base]
    scenario = load(base)
    length, total = len(scenario.experiences), scenario.classes
    counts = sorted({len(experience.classes) for experience in scenario.experiences})
    text = f"{length} experience{'s' if length > 1 else ''} of {' or '.join(map(str, counts))} classes"
    text += f" ({total} in all)" if counts != [total] else ""
    text += ", task labels" if scenario.tasks is not None else ""
    text += ", one test set" if scenario.shared_test else ""
    return f"{text}, images {'x'.join(map(str, scenario.image_shape))}"


@component
@attrs.frozen
class ScenarioSource:
    """The real training data of a scenario, for Replay ED (Sec. 5). An ex-model learner does not have them.

    Args:
        seed: of the scenario; use the seed that its experts were trained with.

    >>> from exml.scenarios import ScenarioSource
    >>> images, labels = ScenarioSource("digits-nc", seed=0)(1)
    >>> images.shape[1:], labels.unique().tolist()
    (torch.Size([1, 8, 8]), [0, 5])
    """

    name: str
    seed: int = attrs.field(default=0, validator=in_range(0, integer=True))
    uses_real_data = True

    def __call__(self, experience: int, /) -> tuple[StoredImages, Labels | None]:
        """All training images of experience i (from 1), as the scenario stores them, with their global class ids.

        Raises:
            UnknownNameError: for an unregistered scenario.
            DataError: for an experience that the scenario does not have.
        """
        experiences = load(self.name, self.seed).experiences
        if not 1 <= experience <= len(experiences):
            expected = f"an experience from 1 to {len(experiences)}, those of {self.name}"
            remedy = "learn from the experts of this scenario, each once"
            raise DataError(expected=expected, got=str(experience), remedy=remedy)
        train = experiences[experience - 1].train
        return train.images, train.labels


def _parse(name: str) -> tuple[str, str | None]:
    """The registered name, and the settings after the colon."""
    base, colon, settings = name.partition(":")
    if name in _FACTORIES:
        return name, None
    if base not in _FACTORIES:
        expected = f"one of {', '.join(nearest(base, names()))}"
        otherwise = "check the spelling, or import the module that registers it with exml.scenarios.register"
        remedy = did_you_mean(base, names(), otherwise)
        raise UnknownNameError(expected=expected, got=repr(base), remedy=remedy)
    return base, settings if colon else None


def _changed(training: ExpertTraining, settings: str, name: str) -> ExpertTraining:
    """The training with settings ``field=value``, separated by commas; the scenario's name is for messages."""
    plain: dict[str, Any] = to_plain(training)
    fields = [field.name for field in attrs.fields(ExpertTraining)]
    seen: set[str] = set()
    for part in settings.split(","):
        field, _, text = (piece.strip() for piece in part.partition("="))
        if not text or field not in fields or field in seen:
            expected = f"settings field=value, each once, separated by commas, of {', '.join(fields)}"
            remedy = "correct the part of the scenario's name after the colon"
            raise SettingError(expected=expected, got=f"{part!r} in {name!r}", remedy=remedy)
        seen.add(field)
        plain[field] = _augmentation(text, name) if field == "augmentation" else _value(text)
    try:
        return from_plain(plain, ExpertTraining)
    except ConfigError as error:
        raise SettingError(expected=error.expected, got=f"{error.got} in {name!r}", remedy=error.remedy) from None


def _augmentation(text: str, name: str) -> Any:
    if text not in _AUGMENTATIONS:
        expected = f"one of {', '.join(_AUGMENTATIONS)} for augmentation"
        remedy = "choose one, or make the scenario in code with an augmentation of your own"
        raise SettingError(expected=expected, got=f"{text!r} in {name!r}", remedy=remedy)
    make = _AUGMENTATIONS[text]
    return None if make is None else to_plain(make())


def _value(text: str) -> int | float | str:
    for number in (int, float):
        with suppress(ValueError):
            return number(text)
    return text
