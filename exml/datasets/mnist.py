"""MNIST: 70,000 grey digits of 28x28 pixels."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from exml.core.samples import Samples
from exml.datasets._torchvision import read
from exml.datasets.location import dataset_folder
from exml.datasets.parts import hold_out

VALIDATION = 500
"""Images of each class of the training set that no expert is trained on."""


def mnist(folder: Path | None = None) -> Mapping[str, Samples]:
    """The parts ``train`` (55,000 images), ``validation`` (5,000) and ``test`` (10,000) of MNIST, 1x28x28 uint8.

    They are always the same, in the order of the files; the classes of the validation part are equally frequent. A
    process reads them once.

    Args:
        folder: holds ``MNIST/raw`` with the four files, as torchvision lays them out; by default
            :func:`dataset_folder`.

    Raises:
        DataError: when the files are not there and cannot be downloaded, or are not MNIST's.
    """
    return _parts(dataset_folder() if folder is None else folder)


@lru_cache(maxsize=1)
def _parts(folder: Path) -> Mapping[str, Samples]:
    from torchvision.datasets import MNIST  # here, since it takes a second to import and not everybody needs it

    return grey_parts(MNIST, folder, "MNIST", "mnist", VALIDATION)


def grey_parts(make: Any, folder: Path, name: str, key: str, validation: int) -> Mapping[str, Samples]:
    """The parts of a dataset that has the layout of MNIST."""
    place = folder / name / "raw"
    found = [read(make, folder, place, name, train=train) for train in (True, False)]
    train, test = (Samples.of(part.data[:, None], part.targets) for part in found)
    train, held_out = hold_out(train, validation, key)
    return MappingProxyType({"train": train, "validation": held_out, "test": test})
