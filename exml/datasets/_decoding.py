"""Decodes image files once, in threads, into a cache file that is memory-mapped afterwards."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from exml.core.errors import DataError
from exml.core.files import write_atomically
from exml.core.samples import fitted
from exml.datasets.location import cache_folder

_LAYOUT = "1"
_TOGETHER = 512


def decoded(root: Path, names: Sequence[str], size: int, *, fit: bool) -> Tensor:
    """All images ``(n, 3, size, size)`` uint8, in order; from the cache if the same files were read before.

    At most a few hundred images are in memory while files are read, and afterwards only the pages that are used.

    Args:
        root: the folder of the files.
        names: paths in it, of images in a format that Pillow reads.
        size: height and width.
        fit: whether images of other sizes are center-cropped and resized; else they are refused.

    Raises:
        DataError: naming the first file that is missing, broken, or of another size.
        CheckpointError: when the cache cannot be written.
    """
    digest = hashlib.sha256(repr((_LAYOUT, str(root.resolve()), size, fit)).encode())
    for name in names:
        try:
            digest.update(f"{name}\0{(root / name).stat().st_size}\0".encode())
        except OSError as error:
            raise _fault(root / name, str(error)) from error
    path = cache_folder() / "decoded" / f"{digest.hexdigest()[:24]}.safetensors"
    shape = (len(names), 3, size, size)
    found = _cached(path, shape)
    if found is None:
        read = partial(_read, size=size, fit=fit)
        write_atomically(path, partial(_write, files=[root / name for name in names], shape=shape, read=read))
        found = _cached(path, shape)
    assert found is not None
    return found


def _cached(path: Path, shape: tuple[int, ...]) -> Tensor | None:
    try:
        images = load_file(path)["images"]
    except (OSError, SafetensorError, KeyError):
        return None
    return images if images.shape == shape else None


def _write(temporary: Path, files: Sequence[Path], shape: tuple[int, ...], read: partial[bytes]) -> None:
    """Write a safetensors file image by image, because all images at once may not fit in memory."""
    total = int(np.prod(shape))
    header = json.dumps({"images": {"dtype": "U8", "shape": shape, "data_offsets": [0, total]}}).encode()
    header += b" " * (-len(header) % 8)
    with temporary.open("wb") as file, ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        file.write(len(header).to_bytes(8, "little") + header)
        for first in range(0, len(files), _TOGETHER):
            for image in pool.map(read, files[first : first + _TOGETHER]):
                file.write(image)


def _read(path: Path, *, size: int, fit: bool) -> bytes:
    try:
        with Image.open(path) as file:
            image = torch.from_numpy(np.array(file.convert("RGB"))).permute(2, 0, 1)
    # Pillow raises any of these for broken files.
    except (OSError, ValueError, SyntaxError, TypeError, EOFError, Image.DecompressionBombError) as error:
        raise _fault(path, str(error)) from error
    if fit:
        image = fitted(image, size)
    elif image.shape != (3, size, size):
        raise DataError(
            expected=f"{size}x{size} pixels in {path}",
            got=f"{image.shape[2]}x{image.shape[1]}",
            remedy=f"get the files of {size}x{size} pixels",
        )
    return image.contiguous().numpy().tobytes()


def _fault(path: Path, what: str) -> DataError:
    return DataError(expected=f"an image in {path}", got=what, remedy="get the file again")
