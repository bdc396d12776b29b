"""Folders of image files, such as a copy of ImageNet.

Files are decoded once, in threads, into a cache file that is memory-mapped afterwards.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from exml.core.errors import DataError, SettingError
from exml.core.files import open_file, write_atomically
from exml.core.samples import Samples, fitted
from exml.datasets._common import cache_folder

SUFFIXES = (".jpeg", ".jpg", ".png")
_LAYOUT = "1"
_TOGETHER = 512


def image_folder(path: Path | str, size: int, *, limit: int | None = None) -> Samples:
    """All PNG and JPEG files below a folder that are not hidden, by name, ``(n, 3, size, size)`` uint8.

    The center square of each image is resized, with antialiasing. The classes are the folders directly in ``path``, in
    alphabetical order; files next to these folders have class 0. The files are decoded once into the user's cache,
    until a file is added or removed, or its size changes.

    Args:
        size: height and width, >= 1.
        limit: the maximum number of files, >= 1, taken evenly from the list.

    Raises:
        DataError: without files, or naming the first broken file.
        SettingError: for a size or a limit below 1.
        CheckpointError: when the cache cannot be written.

    >>> from exml.datasets import image_folder
    >>> from pathlib import Path
    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("cat", "dog"):
    ...         (Path(folder) / name).mkdir()
    ...         Image.new("RGB", (12, 8), "red").save(Path(folder) / name / "1.png")
    ...     samples = image_folder(folder, 4)
    >>> samples, samples.images[0, :, 0, 0].tolist()
    (Samples(2 images 3x4x4, classes 0, 1, cpu), [255, 0, 0])
    """
    path = Path(path)
    if size < 1 or (limit is not None and limit < 1):
        raise SettingError(expected="a size and a limit from 1", got=f"{size} and {limit}", remedy="set them within it")
    names = [file.relative_to(path).as_posix() for file in image_files(path)]
    if limit is not None and limit < len(names):
        names = [names[place * len(names) // limit] for place in range(limit)]
    folders = sorted({name.split("/")[0] for name in names if "/" in name})
    place_of = {folder: place for place, folder in enumerate(folders)}
    labels = torch.tensor([place_of.get(name.split("/")[0], 0) for name in names])
    return Samples.of(decoded(path, names, size, fit=True), labels)


def image_files(path: Path, /) -> list[Path]:
    """All PNG and JPEG files below a folder that are not hidden, sorted by name; a DataError if there are none."""
    files = (file.relative_to(path) for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
    names = sorted(file.as_posix() for file in files if not any(part.startswith(".") for part in file.parts))
    if not names:
        expected, got = f"PNG or JPEG files in {path} or below it", "none" if path.is_dir() else "no such folder"
        raise DataError(expected=expected, got=got, remedy="give the folder that holds them")
    return [path / name for name in names]


def decoded(root: Path, names: Sequence[str], size: int, *, fit: bool) -> Tensor:
    """All images ``(n, 3, size, size)`` uint8, memory-mapped; without ``fit``, another size is a DataError."""
    digest = hashlib.sha256(repr((_LAYOUT, str(root.resolve()), size, fit)).encode())
    for name in names:
        try:
            digest.update(f"{name}\0{(root / name).stat().st_size}\0".encode(errors="surrogateescape"))
        except OSError as error:
            raise _fault(root / name, str(error)) from error
    path = cache_folder() / "decoded" / f"{digest.hexdigest()[:24]}.safetensors"
    shape = (len(names), 3, size, size)
    with suppress(OSError, SafetensorError, KeyError):
        if (images := load_file(path)["images"]).shape == shape:
            return images
    read = partial(_read, size=size, fit=fit)
    write_atomically(path, partial(_write, files=[root / name for name in names], shape=shape, read=read))
    return load_file(path)["images"]


def _write(temporary: Path, files: Sequence[Path], shape: tuple[int, ...], read: partial[bytes]) -> None:
    """Write a safetensors file image by image, because all images may not fit in memory."""
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
        with open_file(path) as raw, Image.open(raw) as file:
            image = torch.from_numpy(np.array(file.convert("RGB"))).permute(2, 0, 1)
    # Pillow raises any of these for broken files.
    except (OSError, ValueError, SyntaxError, TypeError, EOFError, Image.DecompressionBombError) as error:
        raise _fault(path, str(error)) from error
    if fit:
        image = fitted(image, size)
    elif image.shape != (3, size, size):
        got, pixels = f"{image.shape[2]}x{image.shape[1]}", f"{size}x{size} pixels"
        raise DataError(expected=f"{pixels} in {path}", got=got, remedy=f"get the files of {pixels}")
    return image.contiguous().numpy().tobytes()


def _fault(path: Path, what: str) -> DataError:
    return DataError(expected=f"an image in {path}", got=what, remedy="get the file again")
