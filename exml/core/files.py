"""Atomic writes: a file is always complete, either the old one or the new one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from exml.core.errors import CheckpointError


def write_atomically(path: Path, write: Callable[[Path], None], /) -> None:
    """Write a file under a temporary name in its own folder, flush it to the disk, then rename it into place.

    After a kill or a power cut, a reader sees either the old file or the new one. Missing folders are created.

    Args:
        path: of the file.
        write: writes the whole file to the path passed to it.

    Raises:
        CheckpointError: when it cannot be written (full disk, no permission). The old file is unchanged and the
            temporary file is removed, also when ``write`` raises another error.
    """
    # With the process id, two processes can write the same file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        _flush(temporary)
        temporary.replace(path)
        if os.name == "posix":  # elsewhere a folder cannot be opened
            _flush(path.parent)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            expected=f"to write {path}",
            got=str(error),
            remedy="free some space or choose another folder; the file that was there is unchanged",
        ) from error
    finally:
        if temporary.exists():
            temporary.unlink()


def write_text(path: Path, text: str, /) -> None:
    """Write UTF-8 text with :func:`write_atomically`."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8", newline="\n")

    write_atomically(path, write)


def write_json(path: Path, value: Any, /) -> None:
    """Write a value as indented JSON, keys in their order, with :func:`write_atomically`.

    Raises:
        ValueError: for NaN or infinity, which JSON cannot represent.
        CheckpointError: when the file cannot be written.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], /, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors from any device as safetensors with :func:`write_atomically`; tied ones are written twice."""
    ready: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        storage = plain.untyped_storage().data_ptr()
        ready[name] = plain.clone(memory_format=torch.contiguous_format) if storage in seen else plain
        seen.add(storage)
    write_atomically(path, lambda temporary: save_file(ready, temporary, dict(metadata or {})))


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
