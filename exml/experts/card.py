"""Experts on disk: ``NAME.safetensors`` holds the weights and ``NAME.json``, the card, the metadata; no pickles."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn

import attrs
from torch import Tensor, nn

from exml.core.errors import ExmlError, ExpertError, SettingError, StreamError
from exml.core.expert import Expert
from exml.core.files import (
    MEGABYTE,
    TensorHeader,
    can_write,
    open_file,
    read_json,
    read_tensor_header,
    read_tensors,
    write_json,
    write_tensors,
)
from exml.core.memory import require_memory
from exml.core.plain import parse_json
from exml.core.registry import component
from exml.core.rng import global_seed
from exml.core.serialization import from_plain, to_plain
from exml.core.shapes import State
from exml.core.validators import field_error, in_range
from exml.models import build, describe, sketch

CARD = 4 * MEGABYTE
"""Maximum size of a card."""
CLASSES, VALUES, NAME = 2**17, 2**22, 1_000
"""Limits of a card: every class id is lower; the most values of an image, and characters of a name."""
_FITTING = "an architecture that its weights fit"


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

    def expert(self, module: nn.Module, /) -> Expert:
        """The expert with this metadata; raises ExpertError when the card contradicts itself."""
        known = self.classes, self.image_shape
        outputs = self.classes if self.outputs is None else self.outputs
        named: dict[str, Any] = {"labels": self.labels, "task": self.task, "name": self.name}
        return Expert(module, *known, outputs=outputs, mean=self.mean, std=self.std, **named)


def read_card(path: Path | str, /) -> ExpertCard:
    """Read and check a card, without its weights.

    Raises:
        ExpertError: when the file is missing, not JSON, lacks a key, or has an unknown key or an invalid value.
    """
    path = Path(path)
    try:
        card = from_plain(read_json(path, CARD, contained=True), ExpertCard)
        card.expert(nn.Identity())
    except (OSError, ValueError, ExpertError) as error:  # faults of JSON and of values are ValueErrors
        fault(path, error, "a readable card", "write the card again; exml.experts.save_expert makes one")
    return card


def read_cards(folder: Path | str, /) -> dict[str, ExpertCard]:
    """All cards of a folder by file name, in the order of the stream. Weights are not read.

    The order is that of the field ``order`` if the cards have one, else that of the names, with 2 before 10. Hidden
    files, whose names start with a dot, are ignored.

    Raises:
        StreamError: when the folder is missing, unreadable or empty, or the order is contradictory.
        ExpertError: when a card is faulty, or one file of a pair is missing.
    """
    folder = Path(folder)
    try:
        cards, weights = expert_names(folder)
        got = "" if cards or weights else "an empty folder"
    except (OSError, ValueError) as error:
        cards, weights = set[str](), set[str]()
        got = "no such folder" if isinstance(error, FileNotFoundError) else str(error)
    if got:
        expected = f"experts (NAME.safetensors and NAME.json) in {folder}"
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


def expert_names(folder: Path, /) -> tuple[set[str], set[str]]:
    """The names of cards and of weights in a folder, without suffix and without hidden files; may raise an OSError."""
    with os.scandir(folder) as entries:
        parts = [entry.name.rpartition(".") for entry in entries if not entry.name.startswith(".")]
    cards, weights = ({name for name, _, end in parts if end == suffix} for suffix in ("json", "safetensors"))
    return cards, weights


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
            module = _make(self.card.architecture) if module is None else module
            module.load_state_dict(self.weights)
        except Exception as error:  # a module may raise anything
            fault(self.path, error, _FITTING, _remedy(self.weights))
        return self.card.expert(module.eval())


def read_expert(path: Path | str, /, *, fit: bool = True, stop: Callable[[], bool] | None = None) -> ExpertFiles:
    """Read an expert by the path of its card, without building it. This draws no random numbers: any thread may do it.

    The header of the weights is read first. No memory is taken for weights that do not fit the architecture.

    Args:
        path: of its card, next to the weights.
        fit: whether the weights must fit the architecture of the card; not if another module is given later.
        stop: asked after every tensor; reading ends with an error once it returns True.

    Raises:
        ExpertError: as :func:`load_expert`.
    """
    path = Path(path)
    card, header, needed = examine(path, fit=fit)
    weights, digest = path.with_suffix(".safetensors"), hashlib.sha256(header.text)

    def each(data: bytearray) -> None:
        digest.update(data)
        if stop is not None and stop():
            raise InterruptedError("a request to stop")

    try:
        needed += sum(tensor.nbytes for tensor in header.tensors.values())
        require_memory(needed, "the expert", "load it on a machine with more memory")
        with open_file(weights, contained=True) as file:
            if read_tensor_header(file).text != header.text:
                raise ValueError("a file that changed while it was read")
            state = read_tensors(file, header, each)  # once, so that the loaded bytes are the checked ones
        if card.sha256 is not None and digest.hexdigest() != card.sha256:
            remedy = "get both files again: they do not belong together"
            raise ExpertError(expected=f"SHA-256 {card.sha256}", got=digest.hexdigest(), remedy=remedy)
    except (OSError, ValueError, ExpertError) as error:
        fault(weights, error, "complete weights", "get both files again")
    return ExpertFiles(path, card, state)


def examine(path: Path, /, *, fit: bool = True) -> tuple[ExpertCard, TensorHeader, int]:
    """The card, the header of the weights, which must ``fit`` the architecture, and the bytes of the architecture.

    Raises:
        ExpertError: as :func:`load_expert`, except for damaged weights.
    """
    card, header, needed = read_card(path), read_header(path.with_suffix(".safetensors")), 0
    if fit and card.architecture is not None:
        try:
            module = sketch(card.architecture["name"], **card.architecture["settings"])
            if module is not None:
                needed = sum(tensor.nbytes for tensor in module.state_dict().values())
                _require_fit(module, header.tensors)
        except ExmlError as error:
            fault(path, error, _FITTING, _remedy(header.tensors))
    return card, header, needed


def read_header(weights: Path, /) -> TensorHeader:
    """Read names, shapes and types of the weights of an expert; raises an ExpertError for a damaged or missing file."""
    try:
        with open_file(weights, contained=True) as file:
            return read_tensor_header(file)
    except (OSError, ValueError) as error:
        fault(weights, error, "complete weights", "get both files again")


def load_expert(path: Path | str, module: nn.Module | None = None) -> Expert:
    """Load an expert onto the CPU, in evaluation mode.

    Args:
        path: of its card, next to the weights.
        module: the module for the weights, for a card without an architecture or in place of that architecture.

    Raises:
        ExpertError: when the card is faulty, or the weights are missing, damaged, or do not fit the architecture.
    """
    return read_expert(path, fit=module is None).expert(module)


def save_expert(
    expert: Expert,
    folder: Path | str,
    name: str | None = None,
    *,
    order: int | None = None,
    accuracy: float | None = None,
    training: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write ``NAME.safetensors``, then ``NAME.json``; returns the path of the card.

    The names of the tensors are those of the plain architecture, also for a module from :func:`torch.compile` or
    :class:`torch.nn.DataParallel`. Nothing is written that :func:`load_expert` would refuse.

    Args:
        expert: of a registered architecture.
        folder: created if it does not exist.
        name: of the two files; by default the expert's.
        order: like ``accuracy`` and ``training`` (JSON), see :class:`ExpertCard`.
        overwrite: whether to replace existing files of this name.

    Raises:
        ExpertError: when the name is not a valid file name or exists, ``training`` is not JSON, or the weights do not
            fit the registered architecture, for example because of a parametrization.
        UnknownNameError: when the architecture is not registered.
        CheckpointError: when a file cannot be written.
    """
    name = expert.name if name is None else name
    if not name or Path(name).name != name or name.startswith(".") or "\0" in name:
        remedy = "give a name without any '/' that does not start with '.'"
        raise ExpertError(expected="a name for two files", got=repr(name), remedy=remedy)
    weights, path = Path(folder) / f"{name}.safetensors", Path(folder) / f"{name}.json"
    existing = [] if overwrite else [file for file in (path, weights) if os.path.lexists(file)]
    if existing:
        remedy = "give another name, or overwrite=True"
        raise ExpertError(expected=f"no file {existing[0]} yet", got="one", remedy=remedy)
    card, state = savable(expert, training, order=order, accuracy=accuracy)
    write_tensors(weights, state)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    write_json(path, to_plain(attrs.evolve(card, sha256=digest)))
    return path


def savable(
    expert: Expert, training: Mapping[str, Any] | None, *, order: int | None = None, accuracy: float | None = None
) -> tuple[ExpertCard, dict[str, Tensor]]:
    """The card of an expert, without a checksum, and its weights by their plain names.

    Raises:
        ExpertError: as :func:`save_expert`.
        UnknownNameError: when the architecture is not registered.
    """
    module, own = expert.module, f" (expert {expert.name!r})"
    while isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        module = module.module
    architecture = describe(module)
    state = {part.replace("_orig_mod.", ""): tensor for part, tensor in module.state_dict().items()}
    _require_savable(architecture, state, own)
    card = ExpertCard(
        **metadata(expert), order=order, architecture=architecture, accuracy=accuracy, training=dict(training or {})
    )
    try:
        from_plain(parse_json(json.dumps(to_plain(card), allow_nan=False)), ExpertCard)
    except (TypeError, ValueError, RecursionError) as error:
        got = error.got if isinstance(error, ExmlError) else str(error)
        remedy = "give finite numbers and valid text"
        raise ExpertError(expected=f"a card and its training as JSON{own}", got=got, remedy=remedy) from error
    return card, state


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
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def fault(path: Path, error: Exception, expected: str, remedy: str) -> NoReturn:
    """Raise an error again, as an ExpertError that names the file."""
    if isinstance(error, ExmlError):
        raise ExpertError(expected=f"{error.expected} in {path}", got=error.got, remedy=error.remedy) from error
    got = str(error) or type(error).__name__
    raise ExpertError(expected=f"{expected} in {path}", got=got, remedy=remedy) from error


def _make(architecture: Mapping[str, Any] | None) -> nn.Module:
    if architecture is None:
        raise ExpertError(expected="an architecture", got="null", remedy="give load_expert the module")
    with global_seed(0, "load"):  # the initial weights are overwritten
        return build(architecture["name"], **architecture["settings"])


def _require_fit(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Raise an ExpertError unless a module on the device ``meta`` can load tensors of these shapes and types."""
    own = module.state_dict()
    for name, tensor in tensors.items():
        if name in own and tensor.is_floating_point() != own[name].is_floating_point():
            expected, got = f"{own[name].dtype} for {name!r}", str(tensor.dtype)
            raise ExpertError(expected=expected, got=got, remedy="convert the weights")
    try:
        module.load_state_dict({name: tensor.to("meta") for name, tensor in tensors.items()}, assign=True)
    except NotImplementedError:  # a module that reads the values
        return
    except Exception as error:
        raise ExpertError(expected=_FITTING, got=str(error), remedy=_remedy(tensors)) from error


def _require_savable(architecture: Mapping[str, Any], state: Mapping[str, Any], own: str) -> None:
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor) or tensor.is_meta or not can_write(tensor):
            got = str(tensor.dtype) if isinstance(tensor, Tensor) else type(tensor).__name__
            remedy = "convert the module to an ordinary one of floating weights"
            raise ExpertError(
                expected=f"a dense tensor {name!r} that safetensors can store{own}", got=got, remedy=remedy
            )
    module = sketch(architecture["name"], **architecture["settings"])
    try:
        _require_fit(_make(architecture) if module is None else module, state)
    except ExpertError as error:
        remedy = "remove parametrizations and other changes of the architecture, or register it as it is"
        raise ExpertError(expected=error.expected + own, got=error.got, remedy=remedy) from error


def _remedy(names: Mapping[str, Tensor]) -> str:
    """What to do about tensors that do not fit; names the prefix of a wrapper that was saved with them."""
    if any("_orig_mod." in name for name in names):
        prefix = "_orig_mod."
    elif names and all(name.startswith("module.") for name in names):
        prefix = "module."
    else:
        return "correct the card, or give the module"
    return f"remove {prefix!r} from the names of its tensors"
