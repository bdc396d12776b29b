"""CIFAR-10: 60,000 colour photographs of 32x32 pixels (Krizhevsky 2009)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from einops import rearrange

from exml.core.samples import Samples
from exml.datasets._arrays import read_arrays, require
from exml.datasets._torchvision import read
from exml.datasets.location import dataset_folder
from exml.datasets.parts import hold_out

VALIDATION = 500
"""Images of each class of the training set that no expert is trained on."""
REMEDY = "get the file again, or remove it and give torchvision's cifar-10-batches-py"


def cifar10(folder: Path | None = None) -> Mapping[str, Samples]:
    """The parts ``train`` (45,000 images), ``validation`` (5,000) and ``test`` (10,000) of CIFAR-10, 3x32x32 uint8.

    They are always the same, in the order of the files, and the classes of the validation part are equally frequent. A
    process reads them once.

    Args:
        folder: holds ``cifar10.npz`` with ``x_train`` ``(n, 32, 32, 3)`` uint8, ``y_train`` ``(n,)``, ``x_test`` and
            ``y_test``, or ``cifar-10-batches-py`` as torchvision lays it out; :func:`dataset_folder` by default.

    Raises:
        DataError: when the files are missing and cannot be downloaded, or are not CIFAR-10's.
    """
    return _parts(dataset_folder() if folder is None else folder)


@lru_cache(maxsize=1)
def _parts(folder: Path) -> Mapping[str, Samples]:
    arrays = folder / "cifar10.npz"
    train, test = _of_arrays(arrays) if arrays.exists() else _of_batches(folder)
    train, held_out = hold_out(train, VALIDATION, "cifar10")
    return MappingProxyType({"train": train, "validation": held_out, "test": test})


def _of_arrays(path: Path) -> tuple[Samples, Samples]:
    arrays = read_arrays(path, ("x_train", "y_train", "x_test", "y_test"), REMEDY)
    return _samples(arrays[0], arrays[1], path), _samples(arrays[2], arrays[3], path)


def _of_batches(folder: Path) -> tuple[Samples, Samples]:
    from torchvision.datasets import CIFAR10  # here, because torchvision takes a second to import

    place = folder / "cifar-10-batches-py"
    found = [read(CIFAR10, folder, place, "CIFAR-10", train=train) for train in (True, False)]
    train, test = (_samples(part.data, np.asarray(part.targets), place) for part in found)
    return train, test


def _samples(images: np.ndarray, labels: np.ndarray, path: Path) -> Samples:
    labels = labels.reshape(-1)
    fits = images.dtype == np.uint8 and images.shape == (len(labels), 32, 32, 3) and labels.dtype.kind in "iu"
    fits = fits and bool(((labels >= 0) & (labels < 10)).all())
    require(
        fits,
        path,
        "images (n, 32, 32, 3) uint8 with labels 0 to 9",
        f"{images.shape} {images.dtype} and {labels.shape} {labels.dtype}",
        REMEDY,
    )
    ids = torch.from_numpy(labels.astype(np.int64))
    return Samples.of(rearrange(torch.from_numpy(images), "n h w c -> n c h w").contiguous(), ids)
