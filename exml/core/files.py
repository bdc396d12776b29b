"""Bounded reads of regular files, and atomic writes: after a crash, a file has its old or its new content, complete."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from io import BufferedReader
from operator import itemgetter
from pathlib import Path
from typing import IO, Any

import attrs
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from exml.core.errors import CheckpointError, ConfigError
from exml.core.plain import parse_json, parse_yaml

MEGABYTE = 2**20
_HEADER, _DIMENSIONS = 8 * MEGABYTE, 16  # limits of safetensors: the bytes of a header, the dimensions of a tensor
_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


def open_file(path: Path, /, *, contained: bool = False) -> BufferedReader:
    """Open a regular file to read its bytes; if ``contained``, a link that leads out of its folder is refused.

    An OSError also refuses folders, pipes and devices. This never waits.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    place = path
    if contained:
        # Unlike Path.resolve, os.path.realpath raises nothing for links in a circle; opening them then fails.
        place, flags = Path(os.path.realpath(path)), flags | getattr(os, "O_NOFOLLOW", 0)
        if not place.is_relative_to(os.path.realpath(path.parent)):
            raise OSError(errno.EPERM, "a link that leads out of its folder", str(path))
    return os.fdopen(_regular(os.open(place, flags), path), "rb")


def open_to_write(path: Path, /) -> IO[bytes]:
    """Open a regular file to write, at its beginning; it keeps its content, and is created if it is missing.

    An OSError refuses links, folders, pipes and devices. This never waits.
    """
    flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    return os.fdopen(_regular(os.open(path, flags | getattr(os, "O_BINARY", 0), 0o666), path), "wb")


def _regular(file: int, path: Path) -> int:
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return file


def read_bytes(path: Path, limit: int, /, *, contained: bool = False) -> bytes:
    """Read a regular file of at most ``limit`` bytes; :func:`open_file` documents the rest."""
    with open_file(path, contained=contained) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise OSError(errno.EFBIG, f"{size} bytes, more than {limit}", str(path))
        data = file.read(size + 1)
    if len(data) != size:
        raise OSError(errno.EAGAIN, "changed while it was read", str(path))
    return data


def read_json(path: Path, limit: int = 64 * MEGABYTE, /, *, contained: bool = False, file_names: bool = False) -> Any:
    """Read JSON with :func:`read_bytes` and :func:`exml.core.plain.parse_json`, which document the errors."""
    return parse_json(read_bytes(path, limit, contained=contained), file_names=file_names)


def read_yaml(path: Path, what: str, /) -> Any:
    """Read YAML or JSON of at most 1 MB; a ConfigError, also of a missing file, names ``what`` and the file."""
    try:
        return parse_yaml(read_bytes(path, MEGABYTE))
    except (OSError, ValueError) as error:
        expected, got, remedy = f"{what} in {path}", str(error), "name a YAML or JSON file that exists"
        if isinstance(error, ConfigError):
            expected, got, remedy = f"{expected} with {error.expected}", error.got, error.remedy
        raise ConfigError("", expected=expected, got=got, remedy=remedy) from None


@attrs.frozen
class TensorHeader:
    """The header of a safetensors file: its tensors on ``meta``, in their order, metadata, and its own bytes."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    text: bytes


def read_tensor_header(file: IO[bytes], /) -> TensorHeader:
    """Read a safetensors header of at most 8 MB; a ValueError unless it describes exactly the bytes of the file."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(_HEADER, size - 8):
        raise ValueError(f"a header of {length} bytes in a file of {size}")
    text = file.read(length)
    plain = parse_json(text)
    if len(text) != length or not isinstance(plain, dict):
        raise ValueError("not a safetensors header")
    metadata = plain.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("metadata that is not text by name")
    parts = sorted([_described(name, entry) for name, entry in plain.items()], key=itemgetter(0))
    ends = [0, *(end for (_, end), *_ in parts)]
    if [begin for (begin, _), *_ in parts] != ends[:-1] or ends[-1] != size - 8 - length:
        raise ValueError("tensors that overlap, leave gaps, or end elsewhere than the file")
    return TensorHeader({name: tensor for _, name, tensor in parts}, metadata, length.to_bytes(8, "little") + text)


def read_tensors(
    file: BufferedReader, header: TensorHeader, each: Callable[[bytearray], object], /
) -> dict[str, Tensor]:
    """Read the tensors of a file whose header was just read; ``each`` is called with the bytes of every tensor."""
    found: dict[str, Tensor] = {}
    for name, tensor in header.tensors.items():
        data = bytearray(tensor.nbytes)
        if file.readinto(data) != len(data):
            raise ValueError("a file that became shorter while it was read")
        each(data)
        flat = torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
        found[name] = flat.view(tensor.dtype).view(tensor.shape)
    return found


def _described(name: str, entry: Any) -> tuple[tuple[int, int], str, Tensor]:
    """The first byte and the end of a tensor, its name, and itself on the device ``meta``."""
    match entry:
        case {"dtype": str(kind), "shape": list(shape), "data_offsets": [int(begin), int(end)], **rest} if not rest:
            dtype = _DTYPES.get(kind)
        case _:
            raise ValueError(f"no dtype, shape and data_offsets for {name!r}")
    if dtype is None:
        raise ValueError(f"the unknown dtype {kind!r} of {name!r}")
    fits = len(shape) <= _DIMENSIONS and all(type(length) is int and length >= 0 for length in shape)
    if not fits or math.prod(max(length, 1) for length in shape) >= 2**60:
        raise ValueError(f"the shape {shape} of {name!r}")
    if begin < 0 or math.prod(shape) * dtype.itemsize != end - begin:
        raise ValueError(f"{end - begin} bytes for {name!r}, a tensor {shape} of {kind}")
    return (begin, end), name, torch.empty(shape, dtype=dtype, device="meta")


def write_atomically(
    path: Path, write: Callable[[Path], object], /, rename: Callable[[Path], str] | None = None
) -> None:
    """Call ``write`` with the path of a temporary file in the same folder, flush it to the disk, and rename it.

    Creates missing folders. If the file cannot be written (full disk, no permission), this raises a
    :class:`exml.core.errors.CheckpointError`, and an old file stays unchanged. ``rename`` takes the path of the
    temporary file, and returns a name that replaces that of ``path``.
    """
    # The process id lets two processes write the same file. A long name leaves no room for it.
    name = path.name if len(os.fsencode(path.name)) < 200 else hashlib.sha256(os.fsencode(path.name)).hexdigest()
    temporary = path.with_name(f".{name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        _flush(temporary)
        temporary.replace(path if rename is None else path.with_name(rename(temporary)))
        if os.name == "posix":  # elsewhere a folder cannot be opened
            _flush(path.parent)
    except (OSError, SafetensorError) as error:
        remedy = "free some space or choose another folder; an existing file stays unchanged"
        raise CheckpointError(expected=f"to write {path}", got=str(error), remedy=remedy) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_partial(paths: Iterable[Path], /) -> None:
    """Remove those of some files that a killed writer left behind, including ``.tmp??????`` of safetensors."""
    for path in paths:
        if re.fullmatch(r"\..*\.part|\.tmp\w{6}", path.name):
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str, /) -> None:
    """Write UTF-8 text with :func:`write_atomically`.

    Lone surrogates, which stand for bytes of file names that are not UTF-8, become escapes of JSON.
    """
    write_atomically(path, lambda temporary: temporary.write_bytes(text.encode(errors="backslashreplace")))


def write_json(path: Path, value: Any, /) -> None:
    """Write a value as indented JSON with :func:`write_atomically`; NaN and infinity raise a ValueError."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def can_write(tensor: Tensor, /) -> bool:
    """Whether safetensors has the type and layout of a tensor."""
    return tensor.dtype in _DTYPES.values() and tensor.layout == torch.strided and not tensor.is_quantized


def file_digest(path: Path, /) -> str:
    """The SHA-256 of a regular file; an OSError if it cannot be read."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    /,
    metadata: Mapping[str, str] | None = None,
    rename: Callable[[Path], str] | None = None,
) -> None:
    """Write tensors from any device as safetensors with :func:`write_atomically`; tied tensors are written twice."""
    ready: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        storage = plain.untyped_storage().data_ptr()
        ready[name] = plain.clone(memory_format=torch.contiguous_format) if storage in seen else plain
        seen.add(storage)
    write_atomically(path, lambda temporary: save_file(ready, temporary, dict(metadata or {})), rename)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
