"""Datasets that do not come with a library: where they lie, and what torchvision reads of them."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from exml._rng import derive_seed
from exml.errors import DataError

VALIDATION = 500
"""Images of each class of MNIST's training set that no expert is trained on."""


def dataset_folder() -> Path:
    """What ``EXML_DATA`` names; else a folder of exml's own in the user's cache, which downloads go to."""
    named = os.environ.get("EXML_DATA")
    return Path(named).expanduser() if named else _cache()


@lru_cache(maxsize=1)
def mnist(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """The parts ``train``, ``validation`` and ``test`` of MNIST; always the same, in the order of the files.

    The validation part has equally many training images of each class. It is downloaded, once, only into the folder of
    the cache: to one that somebody named nothing is added.

    Args:
        folder: holds ``MNIST/raw`` with the four files, as torchvision lays them out.

    Returns:
        Of each part the images, ``(n, 28, 28)`` uint8, and the class ids, ``(n,)`` int64.

    Raises:
        DataError: when the files are not there and cannot be downloaded, or are not MNIST's.
    """
    images, labels = _read(folder, train=True)
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(10):
        own: list[int] = (labels == label).nonzero().flatten().tolist()
        # Ordered by a hash and not by a generator, whose numbers may change with the version of a library.
        own.sort(key=lambda index: derive_seed(0, "mnist", index))
        held_out[own[:VALIDATION]] = True
    return {
        "train": (images[~held_out], labels[~held_out]),
        "validation": (images[held_out], labels[held_out]),
        "test": _read(folder, train=False),
    }


def _read(folder: Path, *, train: bool) -> tuple[Tensor, Tensor]:
    from torchvision.datasets import MNIST  # here, since only these scenarios need it

    try:
        dataset = MNIST(folder, train=train, download=folder == _cache())
    # torchvision has no error of its own: it asserts, or fails where it stumbles.
    except (RuntimeError, OSError, ValueError, AssertionError, IndexError, KeyError, TypeError) as error:
        raise DataError(
            expected=f"MNIST in {folder / 'MNIST' / 'raw'}, as torchvision lays it out",
            got=" ".join(str(error).split()) or type(error).__name__,
            remedy="set EXML_DATA to a folder that holds it, or unset it and be online once to download it",
        ) from error
    return dataset.data, dataset.targets


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "exml"
