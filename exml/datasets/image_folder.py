"""Folders of photographs, such as a copy of ImageNet."""

from __future__ import annotations

from pathlib import Path

import torch

from exml.core.errors import DataError, SettingError
from exml.core.samples import Samples
from exml.datasets._decoding import decoded

SUFFIXES = (".jpeg", ".jpg", ".png")


def image_folder(path: Path | str, size: int, *, limit: int | None = None) -> Samples:
    """All PNG and JPEG files below a folder, in the order of their names, ``(n, 3, size, size)`` uint8.

    The center square of each image is resized, with antialiasing. The classes are the folders directly in ``path``, in
    alphabetical order; files next to these folders have class 0. The files are decoded once into the user's cache,
    until a file is added or removed, or its size changes.

    Args:
        path: of the folder.
        size: height and width, at least 1.
        limit: the maximum number of files, taken evenly from the list.

    Raises:
        DataError: without files, or naming the first broken file.
        SettingError: for a size or a limit below 1.
        CheckpointError: when the cache cannot be written.

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
    names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not names:
        raise DataError(
            expected=f"PNG or JPEG files in {path} or below it",
            got="none" if path.is_dir() else "no such folder",
            remedy="give the folder that holds them",
        )
    if limit is not None and limit < len(names):
        names = [names[place * len(names) // limit] for place in range(limit)]
    folders = sorted({name.split("/")[0] for name in names if "/" in name})
    place_of = {folder: place for place, folder in enumerate(folders)}
    labels = torch.tensor([place_of.get(name.split("/")[0], 0) for name in names])
    return Samples.of(decoded(path, names, size, fit=True), labels)
