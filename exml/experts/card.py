"""Experts on disk: ``NAME.safetensors`` holds the weights and ``NAME.json``, the card, the metadata; no pickles."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn

import attrs
from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn

from exml.core.errors import ConfigError, ExmlError, ExpertError, SettingError, StreamError
from exml.core.expert import Expert
from exml.core.files import write_json, write_tensors
from exml.core.registry import component
from exml.core.rng import global_seed
from exml.core.serialization import from_plain, to_plain
from exml.core.shapes import State
from exml.core.validators import in_range
from exml.models import build, describe


def _is_json(card: ExpertCard, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, Mapping):
        expected = f"a JSON object for ExpertCard.{attribute.name}"
        raise SettingError(expected=expected, got=repr(value), remedy="write it in braces")


def _is_architecture(card: ExpertCard, attribute: attrs.Attribute[Any], value: Any) -> None:
    fits = isinstance(value, Mapping) and set(value) == {"name", "settings"}
    if value is not None and not (fits and isinstance(value["name"], str) and isinstance(value["settings"], Mapping)):
        expected = '{"name": ..., "settings": {...}} or null for ExpertCard.architecture'
        raise SettingError(expected=expected, got=repr(value), remedy="see exml.models.describe")


@component
@attrs.frozen
class ExpertCard:
    """The metadata of an expert. The fields that are not listed here are those of :class:`Expert`.

    Args:
        outputs: None means ``classes``.
        order: position in the stream, on all cards of a folder or on none.
        architecture: name and settings in :mod:`exml.models`; None if :func:`load_expert` is given the module.
        sha256: checksum of the weights file; None skips the check.
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
    training: Any = attrs.field(factory=dict[str, Any], validator=_is_json)
    version: Literal[1] = 1

    def expert(self, module: nn.Module, /) -> Expert:
        """The expert with this metadata; raises ExpertError when the card contradicts itself."""
        known = self.classes, self.image_shape
        outputs = self.classes if self.outputs is None else self.outputs
        return Expert(module, *known, outputs=outputs, mean=self.mean, std=self.std, task=self.task, name=self.name)


def read_card(path: Path | str, /) -> ExpertCard:
    """Read and check a card, without its weights.

    Raises:
        ExpertError: when the file is missing, not JSON, lacks a key, or has an unknown key or an invalid value.
    """
    path = Path(path)
    try:
        plain = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        card = from_plain(plain, ExpertCard)
        card.expert(nn.Identity())
    except (OSError, ValueError, RecursionError, ExpertError) as error:  # bad JSON, UTF-8 and values are ValueErrors
        fault(path, error, "a readable card", "write the card again; exml.experts.save_expert makes one")
    return card


def read_cards(folder: Path | str, /) -> dict[str, ExpertCard]:
    """All cards of a folder by file name, in the order of the stream. Weights are not read.

    The order is that of the field ``order`` if the cards have one, else that of the names, with 2 before 10.

    Raises:
        StreamError: when the folder is missing or empty, or the order is contradictory.
        ExpertError: when a card is faulty, or one file of a pair is missing.
    """
    folder = Path(folder)
    cards = {path.stem for path in folder.glob("*.json")}
    weights = {path.stem for path in folder.glob("*.safetensors")}
    if not cards and not weights:
        expected = f"experts (NAME.safetensors and NAME.json) in {folder}"
        got = "an empty folder" if folder.is_dir() else "no such folder"
        remedy = "check the path; exml.experts.save_expert writes an expert"
        raise StreamError(expected=expected, got=got, remedy=remedy)
    for alone, other in ((cards - weights, "safetensors"), (weights - cards, "json")):
        if alone:
            remedy = "an expert is a pair of files: add the missing file, or move the other one away"
            raise ExpertError(expected=f"{folder / min(alone)}.{other}", got="no such file", remedy=remedy)
    found = {name: read_card(folder / f"{name}.json") for name in sorted(cards, key=natural)}
    orders = {name: card.order for name, card in found.items()}
    given = {order for order in orders.values() if order is not None}
    if given and len(given) < len(orders):
        expected = f"a different order on every card in {folder}, or none on any"
        raise StreamError(expected=expected, got=str(orders), remedy="correct the cards")
    return {name: found[name] for name in sorted(found, key=lambda name: orders[name] or 0)}


@attrs.frozen(eq=False)
class ExpertFiles:
    """The checked content of the two files of an expert, before a module is built.

    Args:
        path: of the card.
        weights: tensors by name, on the CPU.
    """

    path: Path
    card: ExpertCard
    weights: State = attrs.field(repr=False)

    def expert(self, module: nn.Module | None = None, /) -> Expert:
        """Build the expert, in evaluation mode; raises ExpertError when the weights do not fit the module.

        This seeds torch's global generator, which all threads share, and restores it. Call it in the thread that
        learns.
        """
        try:
            module = _make(self.card) if module is None else module
            module.load_state_dict(self.weights)
        except (ExmlError, RuntimeError) as error:
            fault(self.path, error, "an architecture that its weights fit", "correct the card, or give the module")
        return self.card.expert(module.eval())


def read_expert(path: Path | str, /) -> ExpertFiles:
    """Read an expert by the path of its card, without building it. This draws no random numbers: any thread may do it.

    Raises:
        ExpertError: as :func:`load_expert`, except for weights that do not fit the architecture.
    """
    path = Path(path)
    card = read_card(path)
    weights = path.with_suffix(".safetensors")
    try:
        data = weights.read_bytes()  # read once, so that the loaded bytes are the checked ones
        if card.sha256 is not None and (found := hashlib.sha256(data).hexdigest()) != card.sha256:
            remedy = "get both files again: they do not belong together"
            raise ExpertError(expected=f"SHA-256 {card.sha256}", got=found, remedy=remedy)
        state = load(data)
    except (OSError, SafetensorError, ExpertError) as error:
        fault(weights, error, "complete weights", "get both files again")
    return ExpertFiles(path, card, state)


def load_expert(path: Path | str, module: nn.Module | None = None) -> Expert:
    """Load an expert onto the CPU, in evaluation mode.

    Args:
        path: of its card, next to the weights.
        module: the module for the weights, for a card without an architecture or in place of that architecture.

    Raises:
        ExpertError: when the card is faulty, or the weights are missing, damaged, or do not fit the architecture.
    """
    return read_expert(path).expert(module)


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
        name: of the two files; by default the expert's.
        order: like ``accuracy`` and ``training`` (JSON), see :class:`ExpertCard`.

    Raises:
        ExpertError: when the name is not a valid file name, or ``training`` is not JSON.
        UnknownNameError: when the architecture is not registered.
        CheckpointError: when a file cannot be written.
    """
    name = expert.name if name is None else name
    if not name or Path(name).name != name:
        raise ExpertError(expected="a name for two files", got=repr(name), remedy="give a name without any '/'")
    weights, card_path = Path(folder) / f"{name}.safetensors", Path(folder) / f"{name}.json"
    architecture, training = describe(expert.module), dict(training or {})
    try:
        json.dumps(training, allow_nan=False)
    except (TypeError, ValueError) as error:
        expected = f"training as JSON (expert {expert.name!r})"
        raise ExpertError(expected=expected, got=str(error), remedy="give finite numbers and text") from error
    write_tensors(weights, expert.module.state_dict())
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    card = ExpertCard(
        **metadata(expert), order=order, architecture=architecture, sha256=digest, accuracy=accuracy, training=training
    )
    write_json(card_path, to_plain(card))
    return card_path


def metadata(expert: Expert, /) -> dict[str, Any]:
    """The fields of an expert, except for its module."""
    return attrs.asdict(expert, recurse=False, filter=lambda field, _: field.name != "module")


def card_checksum(card: ExpertCard, /) -> str:
    """SHA-256 of a card, except for the checksum of the weights and one in ``training["checksum"]``."""
    training = {name: value for name, value in card.training.items() if name != "checksum"}
    plain = to_plain(attrs.evolve(card, sha256=None, training=training))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts ``expert-2`` before ``expert-10``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def fault(path: Path, error: Exception, expected: str, remedy: str) -> NoReturn:
    """Raise an error again, as an ExpertError that names the file."""
    if isinstance(error, ExmlError):
        raise ExpertError(expected=f"{error.expected} in {path}", got=error.got, remedy=error.remedy) from error
    got = " ".join(str(error).split())
    raise ExpertError(expected=f"{expected} in {path}", got=got, remedy=remedy) from error


def _make(card: ExpertCard) -> nn.Module:
    if card.architecture is None:
        raise ExpertError(expected="an architecture", got="null", remedy="give load_expert the module")
    with global_seed(0, "load"):  # the initial weights are overwritten
        return build(card.architecture["name"], **card.architecture["settings"])


def _refuse_constant(constant: str) -> NoReturn:
    raise ConfigError("", expected="JSON", got=constant, remedy="write a finite number")
