"""Experts as safetensors: ``NAME.safetensors`` holds the weights, ``NAME.json`` or ``NAME.yaml`` the card."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from exml.core.errors import ExmlError, ExpertError
from exml.core.expert import Expert
from exml.core.files import can_write, open_file, read_tensor_header, read_tensors, write_json, write_tensors
from exml.core.outputs import logits_of
from exml.core.plain import parse_json
from exml.core.rng import global_seed
from exml.core.serialization import from_plain, to_plain
from exml.core.shapes import State
from exml.experts.card import ExpertCard, complete, fault, metadata
from exml.experts.entries import Entry
from exml.models import build, filled, sketch
from exml.models import describe as described

_FITTING = "an architecture that its weights fit"
_DAMAGED = "complete weights", "get both files again"
_TORCHVISION = """
resnet18 resnet34 resnet50 resnet101 resnet152 wide_resnet50_2 resnext50_32x4d mobilenet_v2 mobilenet_v3_small
mobilenet_v3_large efficientnet_b0 vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn alexnet squeezenet1_0
squeezenet1_1 densenet121 shufflenet_v2_x0_5 shufflenet_v2_x1_0 convnext_tiny vit_b_16 swin_t
"""
_COMMON: list[tuple[str, dict[str, Any]]] = [
    *(("cifar-resnet", {"blocks": blocks}) for blocks in (3, 5, 7, 9, 18)),
    *((f"torchvision/{name}", {}) for name in _TORCHVISION.split()),
]
_ARCHITECTURES = "torchvision/NAME, timm/NAME, cifar-resnet, sequential with layers, or one that you register"


@attrs.frozen(eq=False)
class ExpertFiles:
    """The checked content of the files of an expert, before a module is built.

    Args:
        path: of its file or folder.
        card: its metadata, complete.
        weights: tensors by name, on the CPU; None if ``make`` returns a module that has them.
        make: returns the module; by default, it is built from the architecture of the card.
        name: of its file, without the suffix.
    """

    path: Path
    card: ExpertCard
    weights: State | None = attrs.field(repr=False)
    make: Callable[[], nn.Module] | None = attrs.field(default=None, repr=False, kw_only=True)
    name: str = attrs.field(kw_only=True)

    def expert(self, module: nn.Module | None = None, /) -> Expert:
        """Build the expert, in evaluation mode; raises ExpertError when the weights do not fit the module.

        This seeds torch's global generator, which all threads share, and restores it. Call it in the thread that
        learns.

        Args:
            module: for the weights, instead of one of the card's architecture.
        """
        try:
            if module is not None and self.weights is None:
                remedy = "give no module"
                raise ExpertError(expected="an architecture that the file itself has", got="a module", remedy=remedy)
            if module is None:
                module = _make(self.card.architecture) if self.make is None else self.make()
            if self.weights is not None:
                own = module.state_dict()
                names = renamed(self.weights, own)
                module.load_state_dict({names[name]: tensor for name, tensor in self.weights.items()})
        except Exception as error:  # a module may raise anything
            fault(self.path, error, _FITTING, "correct the card, or give the module")
        return self.card.expert(module.eval())


# ---- the loader


def describe(entry: Entry, card: Mapping[str, Any], /) -> ExpertCard:
    """The complete card; an architecture that it lacks is recognized by the weights, if they are of a common one."""
    return complete_by(entry, card, header)


def complete_by(entry: Entry, given: Mapping[str, Any], read: Callable[[Entry, ExpertCard], State], /) -> ExpertCard:
    """The card that is given, complete; without an architecture, the weights tell if they are of a common one."""
    card = complete(entry, {}, given)
    if "architecture" in given:
        return card
    shapes = frozenset((name, tuple(tensor.shape)) for name, tensor in read(entry, card).items())
    outputs = len(card.classes if card.outputs is None else card.outputs)
    return attrs.evolve(card, architecture=_recognized(shapes, card.image_shape, outputs))


def header(entry: Entry, card: ExpertCard, /) -> State:
    """The weights on the device ``meta``, read from the header of the file alone."""
    try:
        with open_file(entry.path, contained=True) as file:
            return read_tensor_header(file).tensors
    except (OSError, ValueError) as error:
        fault(entry.path, error, *_DAMAGED)


def read(entry: Entry, card: ExpertCard, stop: Callable[[], bool] | None, trust: bool, /) -> ExpertFiles:
    """Read the weights once, so that the loaded bytes are the checked ones."""
    return ExpertFiles(entry.path, card, read_weights(entry.path, card.sha256, stop), name=entry.name)


def read_weights(path: Path, sha256: str | None, stop: Callable[[], bool] | None, /) -> State:
    """Read a safetensors file; raises an ExpertError for a damaged file or one with another checksum."""
    digest = hashlib.sha256()

    def each(data: bytearray) -> None:
        digest.update(data)
        if stop is not None and stop():
            raise InterruptedError("a request to stop")

    try:
        with open_file(path, contained=True) as file:
            head = read_tensor_header(file)
            digest.update(head.text)
            state = read_tensors(file, head, each)
        if sha256 is not None and digest.hexdigest() != sha256:
            remedy = "get both files again: they do not belong together"
            raise ExpertError(expected=f"SHA-256 {sha256}", got=digest.hexdigest(), remedy=remedy)
    except (OSError, ValueError, ExpertError) as error:
        fault(path, error, *_DAMAGED)
    return state


# ---- weights and architectures


def require_fit(entry: Entry, card: ExpertCard, tensors: State, /) -> int:
    """The bytes of the card's architecture; tensors (on ``meta``) that do not fit it raise an ExpertError."""
    if card.architecture is None:
        return 0
    try:
        module = sketch(card.architecture["name"], **card.architecture["settings"])
        if module is None:
            return 0
        outputs = len(card.classes if card.outputs is None else card.outputs)
        _require_fit(module, tensors, outputs)
        _require_head(module, card, outputs)
        return sum(tensor.nbytes for tensor in module.state_dict().values())
    except ExmlError as error:
        fault(entry.described, error, _FITTING, "correct the card, or give the module")


def renamed(names: Collection[str], own: Collection[str], /) -> dict[str, str]:
    """The name in a module of each tensor of a file.

    The prefixes of wrappers (``module.``, ``_orig_mod.``, ``model.`` ...) are removed if the names then fit.

    >>> from exml.experts.weights import renamed
    >>> renamed(["module.fc.weight"], ["fc.weight"])
    {'module.fc.weight': 'fc.weight'}
    """
    plain = {name: name.replace("_orig_mod.", "") for name in names}
    while len(set(plain.values())) == len(names):
        lacks = set(own) - set(plain.values())
        if set(plain.values()) <= set(own) and all(name.endswith("num_batches_tracked") for name in lacks):
            return plain
        first = {name.partition(".")[0] for name in plain.values()}
        if len(first) != 1 or not all("." in name for name in plain.values()):
            break
        plain = {name: short.partition(".")[2] for name, short in plain.items()}
    return {name: name for name in names}


@cache
def _recognized(
    shapes: frozenset[tuple[str, tuple[int, ...]]], image_shape: tuple[int, int, int], outputs: int
) -> dict[str, Any] | None:
    """The architecture that tensors of these names and shapes are of, whatever the size of the head; or None."""
    theirs = dict(shapes)
    for name, given in _COMMON:
        settings = filled(name, given, outputs, image_shape)
        try:
            module = sketch(name, **settings)
        except ExmlError:  # not for images of this shape
            continue
        own = {} if module is None else {name: tuple(part.shape) for name, part in module.state_dict().items()}
        pairs = [
            (shape, own.get(own_name))
            for shape, own_name in zip(theirs.values(), renamed(theirs, own).values(), strict=True)
        ]
        heads = [mine is not None and mine[:1] == (outputs,) and mine[1:] == shape[1:] for shape, mine in pairs]
        if all(head or mine == shape for head, (shape, mine) in zip(heads, pairs, strict=True)):
            return {"name": name, "settings": settings}
    return None


def _make(architecture: Mapping[str, Any] | None) -> nn.Module:
    if architecture is None:
        remedy = f"add it to the card ({_ARCHITECTURES}), or give load_expert the module"
        raise ExpertError(expected="an architecture", got="none, and weights of no common one", remedy=remedy)
    with global_seed(0, "load"):  # the initial weights are overwritten
        return build(architecture["name"], **architecture["settings"])


def _require_fit(module: nn.Module, tensors: State, outputs: int | None = None) -> None:
    """Raise an ExpertError unless a module on the device ``meta`` can load tensors of these shapes and types."""
    own = module.state_dict()
    names = renamed(tensors, own)
    given = {names[name]: tensor for name, tensor in tensors.items()}
    for name, tensor in given.items():
        if isinstance(own.get(name), Tensor) and tensor.is_floating_point() != own[name].is_floating_point():
            expected, got = f"{own[name].dtype} for {name!r}", str(tensor.dtype)
            raise ExpertError(expected=expected, got=got, remedy="convert the weights")
    try:
        module.load_state_dict({name: tensor.to("meta") for name, tensor in given.items()}, assign=True)
    except NotImplementedError:  # a module that reads the values
        return
    except Exception as error:
        got, remedy = _misfit(own, given, outputs) or (str(error), "correct the card, or give the module")
        raise ExpertError(expected=_FITTING, got=got, remedy=remedy) from error


def _misfit(own: Mapping[str, Any], given: State, outputs: int | None) -> tuple[str, str] | None:
    """What is wrong with the names and shapes of weights, and the remedy; None if nothing is."""
    shapes = {name: list(tensor.shape) for name, tensor in own.items() if isinstance(tensor, Tensor)}
    theirs = {name: list(tensor.shape) for name, tensor in given.items()}
    missing, unexpected = sorted(shapes.keys() - theirs.keys()), sorted(theirs.keys() - shapes.keys())
    other = sorted(name for name, shape in theirs.items() if shapes.get(name, shape) != shape)
    heads = {theirs[name][0] for name in other if theirs[name] and shapes[name] == [outputs, *theirs[name][1:]]}
    if other and not missing and not unexpected and len(heads) == 1 and len(other) <= 2:
        return _head(heads.pop(), outputs)
    faults = {
        "no ": [f"{name} {shapes[name]}" for name in missing],
        "": [f"{name} {theirs[name]} instead of {shapes[name]}" for name in other],
        "an unexpected ": [f"{name} {theirs[name]}" for name in unexpected],
    }
    listed = [
        what + ", ".join(names[:3]) + f" and {len(names) - 3} more" * (len(names) > 3)
        for what, names in faults.items()
        if names
    ]
    remedy = "correct the architecture and its settings on the card, or give the module"
    return ("weights with " + "; ".join(listed), remedy) if listed else None


def _head(units: int, outputs: int | None) -> tuple[str, str]:
    got = f"weights with {units} output units for {outputs} classes"
    remedy = "list the labels of all units, or say with outputs which class id each unit has, null for none"
    return got, remedy


def _require_head(module: nn.Module, card: ExpertCard, outputs: int) -> None:
    """Raise an ExpertError if a module on ``meta`` runs there, and has another number of outputs than the card."""
    try:
        with torch.no_grad():
            units = logits_of(module.eval()(torch.empty(2, *card.image_shape, device="meta"))).shape[1]
    except Exception:  # the expert's own check names what is wrong with images of this shape
        return
    if units != outputs:
        got, remedy = _head(units, outputs)
        raise ExpertError(expected=_FITTING, got=got, remedy=remedy)


# ---- saving


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
) -> tuple[ExpertCard, State]:
    """The card of an expert without a checksum, and its weights by plain names; errors as for :func:`save_expert`."""
    module, own = expert.module, f" (expert {expert.name!r})"
    while isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        module = module.module
    architecture = described(module)
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
