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
    folder = Path(folder)
    weights, cards = dict[str, list[tuple[str, Format]]](), dict[str, list[str]]()
    with os.scandir(folder) as found:
        for item in found:
            if item.name.startswith("."):
                continue
            name, suffix = _split(item.name)
            if suffix in CARDS:
                cards.setdefault(name, []).append(item.name)
            elif suffix:
                weights.setdefault(name, []).append((item.name, FORMATS[suffix]))
            elif item.is_dir() and os.path.lexists(folder / item.name / "config.json"):
                weights.setdefault(item.name, []).append((item.name, "hugging-face"))
    for name in weights.keys() | cards.keys():
        _require_one(folder, [file for file, _ in weights.get(name, ())])
        _require_one(folder, cards.get(name, ()))
    made: dict[str, Entry] = {}
    for name in sorted(weights.keys() | cards.keys(), key=natural):
        file, kind = next(iter(weights.get(name, ())), (f"{name}.safetensors", "safetensors"))
        card = next(iter(cards.get(name, ())), None)
        made[name] = Entry(name, folder / file, None if card is None else folder / card, kind)
    return made


def entry_of(path: Path | str, /) -> Entry:
    """The expert that a path belongs to: that of its weights, its card or its folder, or one without the suffix.

    Raises an ExpertError for a name with several files, or with none.
    """
    path = Path(path)
    path = path if path.name not in ("", "..") else Path(os.path.realpath(path))
    name, suffix = _split(path.name)
    files, cards = [path.name], [path.name]
    if suffix not in FORMATS and (suffix or not path.is_dir()):
        files = _existing(path.with_name(name), FORMATS)
        files += [name] if os.path.lexists(path.with_name(name) / "config.json") else []
    if suffix not in CARDS:
        cards = _existing(path.with_name(name), CARDS)
    _require_one(path.parent, files)
    _require_one(path.parent, cards)
    if not files and not cards:
        got = "a file of another kind" if os.path.lexists(path) else "no such file"
        raise ExpertError(
            expected=f"an expert in {path}",
            got=got,
            remedy=f"name a Hugging Face folder, or a file that ends with {', '.join(FORMATS)}",
        )
    file = files[0] if files else f"{name}.safetensors"
    kind = FORMATS.get(_split(file)[1], "hugging-face")
    return Entry(name, path.with_name(file), path.with_name(cards[0]) if cards else None, kind)


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts ``expert-2`` before ``expert-10``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _split(name: str) -> tuple[str, str]:
    """A file name without its suffix, and that suffix in lower case; no suffix if no expert and no card has it."""
    lower = name.lower()
    suffix = next((end for end in (*FORMATS, *CARDS) if lower.endswith(end) and lower != end), "")
    return name[: len(name) - len(suffix)], suffix


def _existing(base: Path, suffixes: Iterable[str]) -> list[str]:
    names = [base.name + suffix for suffix in suffixes]
    return [name for name in names if os.path.lexists(base.with_name(name))]


def _require_one(folder: Path, files: Iterable[str]) -> None:
    files = sorted(files)
    if len(files) > 1:
        expected = f"one expert, and at most one card, per name in {folder}"
        raise ExpertError(expected=expected, got=" and ".join(files), remedy="rename one of them, or move it away")


def _state(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
