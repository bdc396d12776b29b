"""The experts of a folder: which files belong together, and in which format they are."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, TypeAlias

import attrs

from exml.core.errors import ExpertError

Format: TypeAlias = Literal["safetensors", "state-dict", "hugging-face", "onnx", "exported"]
"""The key of a loader: see :mod:`exml.experts.loading`."""
CARDS = (".json", ".yaml", ".yml")
"""Suffixes of sidecar cards."""
FORMATS: dict[str, Format] = {
    ".safetensors": "safetensors",
    ".pth.tar": "state-dict",
    ".pth": "state-dict",
    ".pt": "state-dict",  # TorchScript archives have this suffix too; the loader looks inside
    ".th": "state-dict",
    ".ckpt": "state-dict",
    ".onnx": "onnx",
    ".pt2": "exported",
    ".ts": "exported",
}
"""The format of a file with each suffix. A folder with a ``config.json`` is in the format ``"hugging-face"``."""


@attrs.frozen
class Entry:
    """An expert on disk: a file or folder, and its sidecar card. Either may be missing; reading it is then an error.

    Args:
        name: of the file without its suffix, or of the folder.
        path: of the file or folder with the weights.
        card: of the sidecar card, ``NAME.json``, ``NAME.yaml`` or ``NAME.yml``; None if there is none.
        format: key of the loader.
    """

    name: str
    path: Path
    card: Path | None
    format: Format

    @property
    def described(self) -> Path:
        """The file in which metadata are corrected, which is the card, or else the weights."""
        return self.path if self.card is None else self.card

    def state(self) -> tuple[tuple[int, int] | None, ...]:
        """Modification time in nanoseconds and size of each of its files; None for a missing one."""
        parts = [self.path, *([] if self.card is None else [self.card])]
        if self.format == "hugging-face":
            try:
                parts += sorted(self.path.iterdir())
            except OSError:
                return (None,)
        return tuple(map(_state, parts))


def entries(folder: Path | str, /) -> dict[str, Entry]:
    """The experts of a folder by name, sorted by name with 2 before 10.

    Hidden files and files of other kinds are ignored. A card without weights has an entry: its file is missing.

    Raises:
        OSError: the folder cannot be read.
        ExpertError: two experts, or two cards, of one name.
    """
    folder, files = Path(folder), dict[str, list[str]]()
    with os.scandir(folder) as found:
        for item in found:
            name, suffix = _split(item.name)
            kept = suffix or (item.is_dir() and os.path.lexists(folder / item.name / "config.json"))
            if kept and not item.name.startswith("."):
                files.setdefault(name, []).append(item.name)
    return {name: _entry(folder, name, files[name]) for name in sorted(files, key=natural)}


def entry_of(path: Path | str, /) -> Entry:
    """The expert that a path belongs to: that of its weights, its card or its folder, or one without the suffix.

    Raises an ExpertError for a name with several files, or with none.
    """
    path = Path(path)
    path = path if path.name not in ("", "..") else Path(os.path.realpath(path))
    name, suffix = _split(path.name)
    found = [file for end in (*FORMATS, *CARDS) if os.path.lexists(path.with_name(file := name + end))]
    found += [name] if os.path.lexists(path.with_name(name) / "config.json") else []
    if suffix or path.is_dir():  # this file, and those of the other sort
        found = [path.name, *(file for file in found if _is_card(file) != _is_card(path.name))]
    if not found:
        got = "a file of another kind" if os.path.lexists(path) else "no such file"
        remedy = f"name a Hugging Face folder, or a file that ends with {', '.join(FORMATS)}"
        raise ExpertError(expected=f"an expert in {path}", got=got, remedy=remedy)
    return _entry(path.parent, name, found)


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts ``expert-2`` before ``expert-10``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _split(name: str) -> tuple[str, str]:
    """A file name without its suffix, and that suffix in lower case; no suffix if no expert and no card has it."""
    lower = name.lower()
    suffix = next((end for end in (*FORMATS, *CARDS) if lower.endswith(end) and lower != end), "")
    return name[: len(name) - len(suffix)], suffix


def _is_card(file: str) -> bool:
    return _split(file)[1] in CARDS


def _entry(folder: Path, name: str, files: Iterable[str]) -> Entry:
    """The expert of all files of one name."""
    cards, weights = [sorted(file for file in files if _is_card(file) == sort) for sort in (True, False)]
    for group in (cards, weights):
        if len(group) > 1:
            expected = f"one expert, and at most one card, per name in {folder}"
            raise ExpertError(expected=expected, got=" and ".join(group), remedy="rename one of them, or move it away")
    file = weights[0] if weights else f"{name}.safetensors"
    kind = FORMATS.get(_split(file)[1], "hugging-face")
    return Entry(name, folder / file, folder / cards[0] if cards else None, kind)


def _state(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
