"""Experts on disk: ``NAME.safetensors`` holds the weights and ``NAME.json``, the card, the metadata; no pickles."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn

import attrs
from torch import nn

from exml.core.errors import ConfigError, ExpertError, SettingError
from exml.core.expert import Expert
from exml.core.files import write_json, write_tensors
from exml.core.registry import component
from exml.core.serialization import from_plain, to_plain
from exml.core.validators import in_range
from exml.experts._fault import fault
from exml.models import describe


def _is_json_object(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, Mapping):
        raise SettingError(
            expected=f"a JSON object for {type(instance).__name__}.{attribute.name}",
            got=repr(value),
            remedy="write it in braces",
        )


def _is_architecture(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    fits = isinstance(value, Mapping) and set(value) == {"name", "settings"}
    if value is not None and not (fits and isinstance(value["name"], str) and isinstance(value["settings"], Mapping)):
        raise SettingError(
            expected='{"name": ..., "settings": {...}} or null for ExpertCard.architecture',
            got=repr(value),
            remedy="see exml.models.describe",
        )


@component
@attrs.frozen
class ExpertCard:
    """The metadata of an expert; most fields are those of :class:`Expert`.

    Args:
        name: for reports.
        classes: global ids of the classes that it was trained on.
        image_shape: ``(channels, height, width)``.
        outputs: the global class id of each output unit, None for a unit without a class. Default: ``classes``.
        mean: of each channel, in pixel units, or one number for all channels.
        std: of each channel, in pixel units, or one number for all channels.
        task: the task label t_i.
        order: its place in the stream, on all cards of a folder or on none.
        architecture: name and settings in :mod:`exml.models`; None if the caller gives the module at loading.
        sha256: checksum of the weights' file; None is not checked.
        accuracy: on held-out images of its own classes, 0 to 1.
        training: free-form notes on how it was trained.
        version: of this layout.

    >>> ExpertCard("zero-one", classes=(0, 1), image_shape=(1, 8, 8)).classes
    (0, 1)
    """

    name: str
    classes: tuple[int, ...]
    image_shape: tuple[int, int, int]
    outputs: tuple[int | None, ...] | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    task: int | None = None
    order: int | None = None
    architecture: Any = attrs.field(default=None, validator=_is_architecture)
    sha256: str | None = None
    accuracy: float | None = attrs.field(default=None, validator=in_range(0, 1, optional=True))
    training: Any = attrs.field(factory=dict[str, Any], validator=_is_json_object)
    version: Literal[1] = 1

    def expert(self, module: nn.Module, /) -> Expert:
        """The expert with this metadata.

        Raises:
            ExpertError: when the card contradicts itself.
        """
        return Expert(
            module,
            self.classes,
            self.image_shape,
            outputs=self.classes if self.outputs is None else self.outputs,
            mean=self.mean,
            std=self.std,
            task=self.task,
            name=self.name,
        )


def read_card(path: Path | str, /) -> ExpertCard:
    """Read and check a card. The weights are not touched.

    Raises:
        ExpertError: when the file is absent or not JSON, a key is unknown or missing, a value has the wrong type, or
            the card contradicts itself.
    """
    path = Path(path)
    try:
        plain = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        card = from_plain(plain, ExpertCard)
        card.expert(nn.Identity())
    except (OSError, ValueError, RecursionError, ExpertError) as error:  # bad JSON, UTF-8 and values are ValueErrors
        fault(path, error, "a readable card", "write the card again; exml.experts.save_expert makes one")
    return card


def save_expert(
    expert: Expert,
    folder: Path | str,
    name: str | None = None,
    *,
    order: int | None = None,
    accuracy: float | None = None,
    training: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``NAME.safetensors``, then ``NAME.json``; returns the path of the card.

    Args:
        expert: of a registered architecture.
        folder: created if it does not exist.
        name: of the two files; by default that of the expert.
        order: see :class:`ExpertCard`.
        accuracy: see :class:`ExpertCard`.
        training: see :class:`ExpertCard`; JSON.

    Raises:
        ExpertError: when the name cannot be that of a file, or ``training`` is not JSON.
        UnknownNameError: when the architecture is not registered.
        CheckpointError: when a file cannot be written.
    """
    name = expert.name if name is None else name
    if not name or Path(name).name != name:
        raise ExpertError(expected="a name for two files", got=repr(name), remedy="give a name without any '/'")
    weights, card_path = Path(folder) / f"{name}.safetensors", Path(folder) / f"{name}.json"
    architecture = describe(expert.module)
    try:
        json.dumps(training, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ExpertError(
            expected=f"training as JSON (expert {expert.name!r})",
            got=str(error),
            remedy="give finite numbers and text",
        ) from error
    write_tensors(weights, expert.module.state_dict())
    card = ExpertCard(
        expert.name,
        expert.classes,
        expert.image_shape,
        expert.outputs,
        expert.mean,
        expert.std,
        expert.task,
        order,
        architecture,
        _sha256(weights),
        accuracy,
        dict(training or {}),
    )
    write_json(card_path, to_plain(card))
    return card_path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_constant(constant: str) -> NoReturn:
    raise ConfigError("", expected="JSON", got=constant, remedy="write a finite number")
