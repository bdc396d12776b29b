"""MNIST: 70,000 grey digits of 28x28 pixels; and Fashion-MNIST: as many pictures of clothes (Xiao et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from exml.core.samples import Samples
from exml.datasets._torchvision import read
from exml.datasets.location import dataset_folder
from exml.datasets.parts import hold_out

VALIDATION = 500
"""Images of each class of the training set that no expert is trained on."""


def mnist(folder: Path | None = None) -> Mapping[str, Samples]:
    """The parts ``train`` (55,000 images), ``validation`` (5,000) and ``test`` (10,000) of MNIST, 1x28x28 uint8.

    They are always the same, in the order of the files, and the classes of the validation part are equally frequent. A
    process reads them once.

    Args:
        folder: holds ``MNIST/raw`` with the four files, as torchvision lays them out; by default
            :func:`dataset_folder`.

    Raises:
        DataError: when the files are missing and cannot be downloaded, or are not MNIST's.
    """
    return _parts(dataset_folder() if folder is None else folder, "MNIST", "mnist")


def fashion_mnist(folder: Path | None = None) -> Mapping[str, Samples]:
    """The parts of Fashion-MNIST, with the sizes of :func:`mnist`.

    Args:
        folder: holds ``FashionMNIST/raw``, as torchvision lays it out; by default :func:`dataset_folder`.

    Raises:
        DataError: as :func:`mnist`.
    """
    return _parts(dataset_folder() if folder is None else folder, "FashionMNIST", "fashion-mnist")


@lru_cache(maxsize=2)
def _parts(folder: Path, name: str, key: str) -> Mapping[str, Samples]:
    from torchvision import datasets  # here, because torchvision takes a second to import

    place = folder / name / "raw"
    found = [read(getattr(datasets, name), folder, place, name, train=train) for train in (True, False)]
    train, test = (Samples.of(part.data[:, None], part.targets) for part in found)
    train, held_out = hold_out(train, VALIDATION, key)
    return MappingProxyType({"train": train, "validation": held_out, "test": test})
