"""Validation parts of datasets."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Bool
from torch import Tensor

from exml.core.errors import DataError
from exml.core.rng import derive_seed
from exml.core.samples import Samples
from exml.core.shapes import Labels


def hold_out(train: Samples, per_class: int, name: str) -> tuple[Samples, Samples]:
    """Split off a validation part with some images of each class, which no expert sees.

    A hash of the name and an image's place selects the images, because the numbers of a generator may change with the
    version of a library. Both parts keep the order.

    Args:
        train: all training images.
        per_class: the number of images of each class to hold out.
        name: of the dataset; another name holds out other images.

    Returns:
        tuple[Samples, Samples]: the remaining images, and the held-out images.

    Raises:
        DataError: when a class would have no image left.

    >>> samples = Samples.of(torch.zeros(10, 1, 2, 2, dtype=torch.uint8), torch.arange(10) % 2)
    >>> train, validation = hold_out(samples, 2, "zeros")
    >>> len(train), validation.labels.bincount().tolist()
    (6, [2, 2])
    """
    mask = held_out(train.labels, per_class, name)
    return train[~mask], train[mask]


def held_out(labels: Labels, per_class: int, name: str) -> Bool[Tensor, " batch"]:
    """A mask of the images that :func:`hold_out` holds out, from the labels of all training images.

    Raises:
        DataError: as :func:`hold_out`.
    """
    mask = torch.zeros(len(labels), dtype=torch.bool)
    classes: list[int] = labels.unique().tolist()
    for label in classes:
        own: list[int] = (labels == label).nonzero().flatten().tolist()
        if len(own) <= per_class:
            raise DataError(
                expected=f"more than {per_class} training images of class {label} of {name}",
                got=str(len(own)),
                remedy="give all of its files, or hold fewer out",
            )
        own.sort(key=partial(derive_seed, 0, name))
        mask[own[:per_class]] = True
    return mask
