"""Datasets that torchvision reads, and downloads into the cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from exml.core.errors import DataError
from exml.datasets.location import cache_folder


def read(make: Callable[..., Any], folder: Path, place: Path, name: str, *, train: bool) -> Any:
    """Load a dataset of torchvision. Only the cache folder is downloaded to.

    Args:
        make: the class of the dataset.
        folder: its root.
        place: where its files should be, for messages.
        name: for messages.
        train: the training part, or the test part.

    Raises:
        DataError: when the files are missing and cannot be downloaded, or are not those of the dataset.
    """
    try:
        return make(folder, train=train, download=folder == cache_folder())
    # torchvision has no error of its own.
    except (RuntimeError, OSError, ValueError, AssertionError, IndexError, KeyError, TypeError) as error:
        raise DataError(
            expected=f"{name} in {place}, as torchvision lays it out",
            got=" ".join(str(error).split()) or type(error).__name__,
            remedy="set EXML_DATA to a folder that holds it, or unset it and download it once, online",
        ) from error
