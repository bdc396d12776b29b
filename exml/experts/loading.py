"""Loads experts: the loader of each format is a module of this package, imported when it is first used.

A loader has two functions, and a third if it can read the names and shapes of the weights without their values:

- ``describe(entry, card) -> ExpertCard``: the facts of the file, overlaid by the fields of ``card`` (plain data from
  the sidecar card and the caller); :func:`exml.experts.card.complete` does that. An ExpertError names what is missing.
- ``read(entry, card, stop, trust) -> ExpertFiles``: reads the weights without building a module. ``stop`` is asked
  from time to time. Without ``trust``, a loader whose format executes code raises an ExpertError.
- ``header(entry, card) -> State``: the weights on the device ``meta``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias, TypedDict
from zipfile import BadZipFile, ZipFile

from torch import nn
from typing_extensions import Unpack

from exml.core.errors import ExmlError, ExpertError, FolderError, StreamError
from exml.core.expert import Expert
from exml.core.files import open_file
from exml.core.memory import require_memory
from exml.core.shapes import State
from exml.experts.card import ExpertCard, fault, require_fields, sidecar
from exml.experts.entries import FORMATS, Entry, Format, entries, entry_of
from exml.experts.weights import ExpertFiles, require_fit

Source: TypeAlias = Entry | Path | str
"""An expert on disk: an entry of a folder, or the path of its weights, its card or its folder."""
_LOADERS: Mapping[Format, str] = {
    "safetensors": "weights",
    "state-dict": "state_dict",
    "hugging-face": "hugging_face",
    "onnx": "onnx",
    "exported": "exported",
}


class CardFields(TypedDict, total=False):
    """The fields of :class:`ExpertCard` that :func:`load` takes."""

    name: str
    labels: Sequence[str]
    classes: Sequence[int]
    outputs: Sequence[int | None]
    image_shape: Sequence[int]
    mean: Sequence[float]
    std: Sequence[float]
    architecture: str | Mapping[str, Any]
    weights: str


def load(source: Source, /, *, trust: bool = False, **card: Unpack[CardFields]) -> Expert:
    """Load an expert of any format onto the CPU, in evaluation mode.

    Args:
        source: path of a file (``.safetensors``, ``.pt``, ``.pth``, ``.onnx``, ``.pt2``), or of a folder in the layout
            of Hugging Face. Metadata come from the file itself, from a card next to it (``NAME.yaml`` or
            ``NAME.json``), and from ``card``; each overrides those before it.
        trust: whether to load ``.pt2`` and TorchScript files, which execute code when they are loaded.
        card: fields of :class:`ExpertCard`: ``labels``, ``image_shape``, ``mean``, ``std``, ``architecture`` ...

    Raises:
        ExpertError: when metadata are missing or contradictory, or the weights are missing, damaged or do not fit the
            architecture.

    >>> import exml, tempfile, torch
    >>> folder = tempfile.mkdtemp()
    >>> torch.save(exml.models.build("torchvision/squeezenet1_1", classes=2).state_dict(), f"{folder}/ships.pth")
    >>> ships = exml.load(
    ...     f"{folder}/ships.pth",
    ...     architecture="torchvision/squeezenet1_1",
    ...     labels=["ship", "ferry"],
    ...     image_shape=(3, 64, 64),
    ... )
    >>> ships.labels, ships.logits(torch.rand(5, 3, 64, 64)).shape
    (('ship', 'ferry'), torch.Size([5, 2]))
    """
    entry = _entry(source)
    require_fields(card)
    described = _loader(entry).describe(entry, {**sidecar(entry), **card})
    return _read(entry, described, True, None, trust).expert()


def read_card(source: Source, /) -> ExpertCard:
    """Read and check the metadata of an expert, without its weights; raises an ExpertError for any fault."""
    entry = _entry(source)
    return _loader(entry).describe(entry, sidecar(entry))


def examine(source: Source, /) -> ExpertCard:
    """:func:`read_card`, and check that the weights fit the architecture, if their header can be read alone."""
    entry = _entry(source)
    card = read_card(entry)
    if tensors := read_header(entry, card):
        require_fit(entry, card, tensors)
    return card


def read_header(source: Source, card: ExpertCard, /) -> State:
    """The weights on the device ``meta``; none for a format whose header cannot be read alone."""
    entry = _entry(source)
    loader = _loader(entry)
    return loader.header(entry, card) if hasattr(loader, "header") else {}


def read_cards(folder: Path | str, /) -> dict[str, ExpertCard]:
    """The metadata of all experts of a folder by name, in the order of the stream. Weights are not read.

    The order is that of the field ``order`` if the cards have one, else that of the names, with 2 before 10. Hidden
    files, and files that are no experts, are ignored.

    Raises:
        StreamError: when the folder is missing, unreadable or empty, or the order is contradictory.
        ExpertError: when a card is faulty or lacks its weights, or two experts have one name.
    """
    cards, _, faults = read_folder(folder, read_card)
    if faults:
        raise FolderError([f"{name}: {fault}" for name, fault in faults.items()])
    return cards


def read_folder(
    folder: Path | str, read: Callable[[Entry], ExpertCard] = examine, /
) -> tuple[dict[str, ExpertCard], dict[str, Entry], dict[str, str]]:
    """:func:`read_cards` with a function that reads one card: the cards, all entries, and what is wrong with others.

    The latter are the faults by name; :func:`examine` checks weights as far as their header tells.
    """
    folder = Path(folder)
    try:
        found = entries(folder)
        others = ", ".join(sorted(path.name for path in folder.iterdir())[:3]) if not found else ""
        got = f"only other files, such as {others}" if others else "" if found else "an empty folder"
    except (OSError, ValueError) as error:
        found = dict[str, Entry]()
        got = "no such folder" if isinstance(error, FileNotFoundError) else str(error)
    if got:
        remedy = f"name a folder that holds files {', '.join(FORMATS)}, or Hugging Face folders, itself"
        raise StreamError(expected=f"experts in {folder}", got=got, remedy=remedy)
    cards, faults = dict[str, ExpertCard](), dict[str, str]()
    for name, entry in found.items():
        try:
            if entry.state()[0] is None:
                remedy = "add the missing file, or move the card away"
                got = "a broken link" if entry.path.is_symlink() else "no such file"
                raise ExpertError(expected=str(entry.path), got=got, remedy=remedy)
            cards[name] = read(entry)
        except ExmlError as error:
            faults[name] = str(error)
    orders = {name: card.order for name, card in cards.items()}
    given = {order for order in orders.values() if order is not None}
    if given and len(given) < len(orders):
        expected = f"a different order on every card in {folder}, or none on any"
        raise StreamError(expected=expected, got=str(orders), remedy="correct the cards")
    return {name: cards[name] for name in sorted(cards, key=lambda name: orders[name] or 0)}, found, faults


def read_expert(
    source: Source, /, *, fit: bool = True, stop: Callable[[], bool] | None = None, trust: bool = False
) -> ExpertFiles:
    """Read an expert without building it. This draws no random numbers: any thread may do it.

    No memory is taken for weights that do not fit the architecture.

    Args:
        source: as for :func:`load`, which documents the errors.
        fit: whether the weights must fit the architecture of the card; not if another module is given later.
        stop: asked while the weights are read; reading ends with an error once it returns True.
        trust: whether to load formats that execute code.
    """
    entry = _entry(source)
    return _read(entry, read_card(entry), fit, stop, trust)


def load_expert(source: Source, module: nn.Module | None = None, *, trust: bool = False) -> Expert:
    """:func:`load` by the card alone, into a ``module`` if one is given, in place of the card's architecture."""
    return read_expert(source, fit=module is None, trust=trust).expert(module)


def _read(entry: Entry, card: ExpertCard, fit: bool, stop: Callable[[], bool] | None, trust: bool) -> ExpertFiles:
    if tensors := read_header(entry, card):
        try:
            needed = require_fit(entry, card, tensors) if fit else 0
            needed += sum(tensor.nbytes for tensor in tensors.values())
            require_memory(needed, "the expert", "load it on a machine with more memory")
        except ExmlError as error:
            if isinstance(error, ExpertError):
                raise
            fault(entry.path, error, "", "")
    return _loader(entry).read(entry, card, stop, trust)


def _entry(source: Source) -> Entry:
    return source if isinstance(source, Entry) else entry_of(source)


def _loader(entry: Entry) -> Any:
    """The module that loads an entry; for a file saved by TorchScript or torch.export, that is not its suffix's."""
    kind = "exported" if entry.format == "state-dict" and _is_program(entry.path) else entry.format
    return import_module(f"{__package__}.{_LOADERS[kind]}")


def _is_program(path: Path) -> bool:
    """Whether a zip archive of PyTorch holds a program."""
    try:
        with open_file(path, contained=True) as file, ZipFile(file) as archive:
            return any(name.endswith(("/constants.pkl", "/archive_format")) for name in archive.namelist())
    except (OSError, ValueError, BadZipFile):
        return False
