"""Cards: the metadata of experts, from the weights themselves and from a file next to them."""

from __future__ import annotations

import errno
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn

import attrs
from torch import nn

from exml.core.errors import ExmlError, ExpertError, SettingError, UnknownNameError, nearest
from exml.core.expert import Expert
from exml.core.files import MEGABYTE, read_bytes
from exml.core.plain import parse_json, parse_yaml
from exml.core.registry import component
from exml.core.serialization import OMIT_DEFAULT, from_plain, to_plain
from exml.core.validators import field_error, in_range
from exml.experts.entries import Entry
from exml.models import filled

CARD = 4 * MEGABYTE
"""Maximum size of a card."""
CLASSES, VALUES, NAME = 2**17, 2**22, 1_000
"""Limits of a card: every class id is lower; the most values of an image, and characters of a name."""
_REMEDIES = {
    errno.EACCES: "give this user the permission to read it",
    errno.EPERM: "put the file itself into the folder, not a link",  # as open_file says
}


def _is_name(card: ExpertCard, attribute: attrs.Attribute[Any], value: str) -> None:
    if len(value) > NAME:  # every log and message repeats it
        raise field_error(card, attribute, value, f"at most {NAME} characters", "shorten it")


def _is_json(card: ExpertCard, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, Mapping):
        expected = f"a JSON object for ExpertCard.{attribute.name}"
        raise SettingError(expected=expected, got=repr(value), remedy="write it in braces")


def _is_architecture(card: ExpertCard, attribute: attrs.Attribute[Any], value: Any) -> None:
    fits = isinstance(value, Mapping) and set(value) == {"name", "settings"}
    if value is not None and not (fits and isinstance(value["name"], str) and isinstance(value["settings"], Mapping)):
        expected = '{"name": ..., "settings": {...}} or null for ExpertCard.architecture'
        raise SettingError(expected=expected, got=repr(value), remedy="see exml.models.describe")


def _are_class_ids(card: ExpertCard, attribute: attrs.Attribute[Any], value: Any) -> None:
    if any(unit is not None and not 0 <= unit < CLASSES for unit in value or ()):
        raise field_error(card, attribute, value, f"class ids from 0 and below {CLASSES}", "number the classes from 0")


def is_image_shape(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """A validator of a shape ``(channels, height, width)`` with at most 4,194,304 values."""
    if not all(length >= 1 for length in value) or math.prod(value) > VALUES:
        expected = f"(channels, height, width) from 1 and with a product of at most {VALUES}"
        raise field_error(instance, attribute, value, expected, "resize the images in the module, or correct the card")


@component
@attrs.frozen
class ExpertCard:
    """The metadata of an expert. The fields that are not listed here are those of :class:`Expert`.

    Class ids are below 131,072, an image has at most 4,194,304 values, and a name 1,000 characters.

    Args:
        outputs: None means ``classes``.
        order: position in the stream, on all cards of a folder or on none.
        architecture: name and settings in :mod:`exml.models`; None if :func:`load_expert` is given the module.
        sha256: checksum of the weights file; None skips the check.
        accuracy: on held-out images of its own classes, 0 to 1.
        training: free-form notes on how it was trained.
        version: of this layout.
        weights: the key of the weights in a checkpoint that has several, such as ``"ema"``; ``"model.ema"`` is a key
            below another one. By default they are found under a usual name, and averages are taken last.

    >>> from exml.experts import ExpertCard
    >>> ExpertCard("zero-one", classes=(0, 1), image_shape=(1, 8, 8)).classes
    (0, 1)
    """

    name: str = attrs.field(validator=_is_name)
    classes: tuple[int, ...] = attrs.field(validator=_are_class_ids)
    image_shape: tuple[int, int, int] = attrs.field(validator=is_image_shape)
    outputs: tuple[int | None, ...] | None = attrs.field(default=None, validator=_are_class_ids)
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    task: int | None = attrs.field(default=None, validator=in_range(0, optional=True, integer=True))
    labels: tuple[str, ...] | None = None
    order: int | None = None
    architecture: Any = attrs.field(default=None, validator=_is_architecture)
    sha256: str | None = None
    accuracy: float | None = attrs.field(default=None, validator=in_range(0, 1, optional=True))
    training: Any = attrs.field(factory=dict[str, Any], validator=_is_json)
    version: Literal[1] = 1
    weights: str | None = attrs.field(default=None, metadata=OMIT_DEFAULT)

    def expert(self, module: nn.Module, /) -> Expert:
        """The expert with this metadata; raises ExpertError when the card contradicts itself."""
        known = self.classes, self.image_shape
        outputs = self.classes if self.outputs is None else self.outputs
        named: dict[str, Any] = {"labels": self.labels, "task": self.task, "name": self.name}
        return Expert(module, *known, outputs=outputs, mean=self.mean, std=self.std, **named)


def complete(entry: Entry, facts: Mapping[str, Any], given: Mapping[str, Any], /) -> ExpertCard:
    """The card of an expert: what its file says, overlaid by what is given.

    Args:
        entry: the name of the expert is its name by default.
        facts: fields of :class:`ExpertCard` as plain data; None means that the file does not say.
        given: the same, by :func:`sidecar` and by the caller. ``classes`` are 0 to N - 1 for N ``labels`` by default;
            an ``architecture`` may be a name alone, or a mapping of its ``name`` and its settings.

    Raises:
        ExpertError: it names every missing field, or the first invalid one.
    """
    known = {name: value for name, value in facts.items() if value is not None}
    plain: dict[str, Any] = {"name": entry.name, **known, **given}
    labels, shape = plain.get("labels"), plain.get("image_shape")
    if "classes" not in plain and labels is not None:
        plain["classes"] = list(range(len(labels))) if isinstance(labels, list | tuple) else []
    absent = [] if "classes" in plain else ["labels: the name of each class, in the order of the outputs"]
    absent += [] if shape is not None else ["image_shape: [channels, height, width]"]
    try:
        if absent:
            remedy = f"add it to {entry.path.with_name(entry.name)}.yaml, or give it to exml.load"
            raise ExpertError(expected="complete metadata", got=f"no {' and no '.join(absent)}", remedy=remedy)
        odd = [label for label in labels if not isinstance(label, str)] if isinstance(labels, list | tuple) else []
        if odd:
            remedy = f'put names in quotation marks, as in "{odd[0]}", or list numbers as classes'
            raise ExpertError(expected="labels that are text", got=repr(odd[0]), remedy=remedy)
        outputs = plain.get("outputs") or plain["classes"]
        if plain.get("architecture") is not None and isinstance(outputs, list | tuple):
            plain["architecture"] = _architecture(plain["architecture"], len(outputs), shape)
        card = from_plain(plain, ExpertCard)
        card.expert(nn.Identity())
        if card.weights is not None and entry.format != "state-dict":
            expected, remedy = "weights on the card of a checkpoint (.pth, .pt, .ckpt) only", "remove it from the card"
            raise ExpertError(expected=expected, got=f"weights {card.weights!r}", remedy=remedy)
    except (ValueError, ExpertError) as error:  # faults of values are ValueErrors
        fault(entry.described, error, "valid metadata", "correct the card")
    return card


def require_units(entry: Entry, card: ExpertCard, units: int | None, /) -> ExpertCard:
    """The card; raises an ExpertError if it has another number of outputs than the file, unless that is unknown."""
    outputs = len(card.classes if card.outputs is None else card.outputs)
    if units is not None and units != outputs:
        remedy = "list the labels of all outputs, or say with outputs which class id each has, null for none"
        raise ExpertError(expected=f"{units} outputs, as {entry.path} has", got=f"a card of {outputs}", remedy=remedy)
    return card


def sidecar(entry: Entry, /) -> dict[str, Any]:
    """The fields of the file next to the weights, as plain data; none without such a file.

    Raises:
        ExpertError: when the file is missing or neither JSON nor YAML, or has an unknown key.
    """
    if entry.card is None:
        return {}
    try:
        text = read_bytes(entry.card, CARD, contained=True)
        plain = parse_json(text) if entry.card.suffix.lower() == ".json" else parse_yaml(text)
        plain = {} if plain is None else plain
        if not isinstance(plain, Mapping):
            remedy = "write a field on each line, such as image_shape: [3, 32, 32]"
            raise ExpertError(expected="a mapping of fields", got=repr(plain), remedy=remedy)
        require_fields(plain)
    except (OSError, ValueError, ExpertError) as error:
        fault(entry.card, error, "a readable card", "write the card again")
    return dict(plain)


def require_fields(given: Mapping[str, Any], /) -> None:
    """Raise an ExpertError for a name that is not a field of a card."""
    fields = [*attrs.fields_dict(ExpertCard), "kind"]
    for name in given:
        if name not in fields:
            expected = f"one of the keys {', '.join(fields[:-1])}"
            raise ExpertError(expected=expected, got=repr(name), remedy=f"did you mean {nearest(name, fields)[0]!r}?")


def _architecture(value: Any, outputs: int, image_shape: Any) -> Any:
    """An architecture with its settings in full; what is not known here stays as it is."""
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        return value
    named = {name: part for name, part in value.items() if name != "name"}
    settings = named["settings"] if set(named) == {"settings"} else named
    if not isinstance(settings, Mapping) or not isinstance(image_shape, list | tuple) or len(image_shape) != 3:
        return {"name": value["name"], "settings": settings}
    try:
        return {"name": value["name"], "settings": filled(value["name"], settings, outputs, image_shape)}
    except UnknownNameError:  # the weights may be for a module that the caller has
        return {"name": value["name"], "settings": settings}


def metadata(expert: Expert, /) -> dict[str, Any]:
    """The fields of an expert, except for its module."""
    return attrs.asdict(expert, recurse=False, filter=lambda field, _: field.name != "module")


def card_checksum(card: ExpertCard, /) -> str:
    """SHA-256 of a card, except for the checksum of the weights and one in ``training["checksum"]``."""
    training = {name: value for name, value in card.training.items() if name != "checksum"}
    plain = to_plain(attrs.evolve(card, sha256=None, training=training))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def fault(path: Path, error: Exception, expected: str, remedy: str) -> NoReturn:
    """Raise an error again, as an ExpertError that names the file."""
    if isinstance(error, ExmlError):
        raise ExpertError(expected=f"{error.expected} in {path}", got=error.got, remedy=error.remedy) from error
    got = str(error) or type(error).__name__
    remedy = _REMEDIES.get(error.errno or 0, remedy) if isinstance(error, OSError) else remedy
    raise ExpertError(expected=f"{expected} in {path}", got=got, remedy=remedy) from error
