"""Atomic writes: after a crash, a file has its complete old or its complete new content."""

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


def write_atomically(path: Path, write: Callable[[Path], object], /) -> None:
    """Call ``write`` with the path of a temporary file in the same folder, flush it to the disk, and rename it.

    Creates missing folders. If the file cannot be written (full disk, no permission), this raises a
    :class:`exml.core.errors.CheckpointError`, and an old file stays unchanged.
    """
    # The process id lets two processes write the same file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        _flush(temporary)
        temporary.replace(path)
        if os.name == "posix":  # elsewhere a folder cannot be opened
            _flush(path.parent)
    except (OSError, SafetensorError) as error:
        remedy = "free some space or choose another folder; an existing file stays unchanged"
        raise CheckpointError(expected=f"to write {path}", got=str(error), remedy=remedy) from error
    finally:
        if temporary.exists():
            temporary.unlink()


def write_text(path: Path, text: str, /) -> None:
    """Write UTF-8 text with :func:`write_atomically`."""
    write_atomically(path, lambda temporary: temporary.write_bytes(text.encode()))


def write_json(path: Path, value: Any, /) -> None:
    """Write a value as indented JSON with :func:`write_atomically`; NaN and infinity raise a ValueError."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], /, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors from any device as safetensors with :func:`write_atomically`; tied tensors are written twice."""
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
