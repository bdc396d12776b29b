"""The parts of a dataset: what experts are trained on, what settings are chosen with, what is reported."""

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
    """Training images without some of each class, and these: a validation part that no expert sees.

    They are the same ones for ever: chosen by a hash of the name and an image's place, and not by a generator, whose
    numbers may change with the version of a library. Both parts keep the order.

    Args:
        train: all training images.
        per_class: how many of each class are held out.
        name: of the dataset; another one holds other images out.

    Returns:
        tuple[Samples, Samples]: the others, and those held out.

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
    """Which images :func:`hold_out` holds out, by their labels alone.

    Args:
        labels: of all training images.
        per_class: as above.
        name: as above.

    Raises:
        DataError: as above.
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
