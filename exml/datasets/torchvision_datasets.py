"""The datasets that torchvision downloads and reads: MNIST, Fashion-MNIST and CIFAR-10."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

import numpy as np

from exml.core.errors import DataError
from exml.core.samples import Samples
from exml.datasets._common import cache_folder, dataset_folder, from_arrays, hold_out, one_line, read_arrays

VALIDATION = 500
"""Images of each class of the training set that no expert is trained on."""
PLACES = {"MNIST": "MNIST/raw", "FashionMNIST": "FashionMNIST/raw", "CIFAR-10": "cifar-10-batches-py"}
REMEDY = "get the file again, or remove it and give torchvision's cifar-10-batches-py"


def mnist(folder: Path | None = None) -> Mapping[str, Samples]:
    """MNIST: grayscale digits, 1x28x28 uint8.

    The parts are ``train`` (55,000 images), ``validation`` (5,000) and ``test`` (10,000). They are always the same, in
    the order of the files, and the classes of the validation part are equally frequent. A process reads them once.

    Args:
        folder: holds ``MNIST/raw`` as torchvision lays it out; by default :func:`dataset_folder`.

    Raises:
        DataError: when the files are missing and cannot be downloaded, or are not those of the dataset.
    """
    return _parts(folder or dataset_folder(), "MNIST", "mnist")


def fashion_mnist(folder: Path | None = None) -> Mapping[str, Samples]:
    """Fashion-MNIST: pictures of clothes (Xiao et al. 2017), with the parts and errors of :func:`mnist`.

    Args:
        folder: holds ``FashionMNIST/raw`` as torchvision lays it out; by default :func:`dataset_folder`.
    """
    return _parts(folder or dataset_folder(), "FashionMNIST", "fashion-mnist")


def cifar10(folder: Path | None = None) -> Mapping[str, Samples]:
    """CIFAR-10: color photographs (Krizhevsky 2009), 3x32x32 uint8, with the parts and errors of :func:`mnist`.

    The ``train`` part has 45,000 images.

    Args:
        folder: holds ``cifar10.npz`` with ``x_train`` ``(n, 32, 32, 3)`` uint8, ``y_train`` ``(n,)``, ``x_test`` and
            ``y_test``, or ``cifar-10-batches-py`` as torchvision lays it out; :func:`dataset_folder` by default.
    """
    return _parts(folder or dataset_folder(), "CIFAR-10", "cifar10")


@lru_cache(maxsize=2)
def _parts(folder: Path, name: str, key: str) -> Mapping[str, Samples]:
    path = folder / "cifar10.npz"
    if name == "CIFAR-10" and path.exists():
        arrays = read_arrays(path, ("x_train", "y_train", "x_test", "y_test"), REMEDY)
        train, test = (from_arrays(arrays[first], arrays[first + 1], path, REMEDY) for first in (0, 2))
    else:
        train, test = (_read(folder, name, train=train) for train in (True, False))
    train, held_out = hold_out(train, VALIDATION, key)
    return MappingProxyType({"train": train, "validation": held_out, "test": test})


def _read(folder: Path, name: str, *, train: bool) -> Samples:
    from torchvision import datasets  # here, because torchvision takes a second to import

    place = folder / PLACES[name]
    try:
        # Only the cache folder is downloaded to.
        part = getattr(datasets, name.replace("-", ""))(folder, train=train, download=folder == cache_folder())
    # torchvision has no error of its own.
    except (RuntimeError, OSError, ValueError, AssertionError, IndexError, KeyError, TypeError) as error:
        expected = f"{name} in {place}, as torchvision lays it out"
        remedy = "set EXML_DATA to a folder that holds it, or unset it and download it once, online"
        raise DataError(expected=expected, got=one_line(error), remedy=remedy) from error
    if name == "CIFAR-10":
        return from_arrays(part.data, np.asarray(part.targets), place, REMEDY)
    return Samples.of(part.data[:, None], part.targets)
