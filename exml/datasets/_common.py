"""The folders of datasets, arrays of images, and validation parts."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool
from torch import Tensor

from exml.core.errors import DataError
from exml.core.rng import derive_seed
from exml.core.samples import Samples
from exml.core.shapes import Labels


def dataset_folder() -> Path:
    """The folder in ``EXML_DATA``, which is never written to; else ``~/.cache/exml``, where downloads go."""
    named = os.environ.get("EXML_DATA")
    return Path(named).expanduser() if named else cache_folder()


def cache_folder() -> Path:
    """The folder ``exml`` in the user's cache: ``XDG_CACHE_HOME``, else ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "exml"


def read_arrays(path: Path, names: tuple[str, ...], remedy: str) -> tuple[np.ndarray, ...]:
    """Read the arrays of these names from an ``.npz`` file, without unpickling."""
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return tuple(file[name] for name in names)
    # NumPy has no error of its own, and loads a file with a single array as that array.
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, TypeError, AttributeError) as error:
        raise DataError(expected=f"{', '.join(names)} in {path}", got=one_line(error), remedy=remedy) from error


def one_line(error: BaseException) -> str:
    """The text of an error, or else its type."""
    return " ".join(str(error).split()) or type(error).__name__


def from_arrays(images: np.ndarray, labels: np.ndarray, path: Path, remedy: str) -> Samples:
    """Samples from images ``(n, 32, 32, 3)`` uint8 with labels 0 to 9."""
    labels = labels.reshape(-1)
    fits = images.dtype == np.uint8 and images.shape == (len(labels), 32, 32, 3) and labels.dtype.kind in "iu"
    if not fits or not bool(((labels >= 0) & (labels < 10)).all()):
        expected = f"images (n, 32, 32, 3) uint8 with labels 0 to 9 in {path}"
        got = f"{images.shape} {images.dtype} and {labels.shape} {labels.dtype}"
        raise DataError(expected=expected, got=got, remedy=remedy)
    pixels = rearrange(torch.from_numpy(images), "n h w c -> n c h w").contiguous()
    return Samples.of(pixels, torch.from_numpy(labels.astype(np.int64)))


def hold_out(train: Samples, per_class: int, name: str) -> tuple[Samples, Samples]:
    """Split off a validation part with equally frequent classes, which no expert is trained on.

    A hash of the name and an image's position selects the images, because the numbers of a generator may change with
    the version of a library. Both parts keep the order.

    Args:
        per_class: the number of images of each class to hold out.
        name: of the dataset; another name holds out other images.

    Raises:
        DataError: when a class would have no image left.

    >>> import exml, torch
    >>> from exml.datasets import hold_out
    >>> samples = exml.Samples.of(torch.zeros(10, 1, 2, 2, dtype=torch.uint8), torch.arange(10) % 2)
    >>> train, validation = hold_out(samples, 2, "zeros")
    >>> len(train), validation.labels.bincount().tolist()
    (6, [2, 2])
    """
    mask = held_out(train.labels, per_class, name)
    return train[~mask], train[mask]


def held_out(labels: Labels, per_class: int, name: str) -> Bool[Tensor, " batch"]:
    """A mask of the images that :func:`hold_out` holds out, from the labels of all training images."""
    mask = torch.zeros(len(labels), dtype=torch.bool)
    classes: list[int] = labels.unique().tolist()
    for label in classes:
        own: list[int] = (labels == label).nonzero().flatten().tolist()
        if len(own) <= per_class:
            expected = f"more than {per_class} training images of class {label} of {name}"
            raise DataError(expected=expected, got=str(len(own)), remedy="give all of its files, or hold fewer out")
        own.sort(key=partial(derive_seed, 0, name))
        mask[own[:per_class]] = True
    return mask
