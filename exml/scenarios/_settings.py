"""Settings of the experts' training that a scenario's name gives after a colon."""

from __future__ import annotations

from typing import Any

import attrs

from exml.augmentation import Augmentation
from exml.core.errors import ConfigError, SettingError
from exml.core.serialization import from_plain, to_plain
from exml.experts import ExpertTraining

AUGMENTATIONS = {
    "none": None,
    "mnist": Augmentation.mnist,
    "cifar10": Augmentation.cifar10,
    "core50": Augmentation.core50,
}


def changed(training: ExpertTraining, settings: str, name: str) -> ExpertTraining:
    """The training with the settings after the colon of a scenario's name.

    Args:
        training: the scenario's own.
        settings: ``field=value``, separated by commas.
        name: the whole name, for messages.

    Raises:
        SettingError: for malformed settings, an unknown or repeated field, or a value that the field does not take.

    >>> changed(ExpertTraining(), "epochs=2,augmentation=mnist", "digits-nc:epochs=2,augmentation=mnist").epochs
    2
    """
    plain: dict[str, Any] = to_plain(training)
    fields = [field.name for field in attrs.fields(ExpertTraining)]
    seen: set[str] = set()
    for part in settings.split(","):
        field, _, text = (piece.strip() for piece in part.partition("="))
        if not text or field not in fields or field in seen:
            raise SettingError(
                expected=f"settings field=value, each once, separated by commas, of {', '.join(fields)}",
                got=f"{part!r} in {name!r}",
                remedy="correct the part of the scenario's name after the colon",
            )
        seen.add(field)
        plain[field] = _augmentation(text, name) if field == "augmentation" else _value(text)
    try:
        return from_plain(plain, ExpertTraining)
    except ConfigError as error:
        raise SettingError(expected=error.expected, got=f"{error.got} in {name!r}", remedy=error.remedy) from None


def _augmentation(text: str, name: str) -> Any:
    if text not in AUGMENTATIONS:
        raise SettingError(
            expected=f"one of {', '.join(AUGMENTATIONS)} for augmentation",
            got=f"{text!r} in {name!r}",
            remedy="choose one, or make the scenario in code with an augmentation of your own",
        )
    make = AUGMENTATIONS[text]
    return None if make is None else to_plain(make())


def _value(text: str) -> int | float | str:
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text
