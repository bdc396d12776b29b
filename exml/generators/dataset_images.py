"""The images of a dataset by its name, as auxiliary data."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal

import attrs
import torch
from torch import nn

from exml.core.registry import component
from exml.core.samples import Samples, StoredImages, fitted
from exml.core.shapes import Labels
from exml.core.validators import one_of, positive_int
from exml.datasets import cifar10, dataset_folder, fashion_mnist, imagenet, mnist

GREY = {"mnist": mnist, "fashion-mnist": fashion_mnist}


@component
@attrs.frozen
class DatasetImages:
    """All training images of a dataset, for :class:`AuxiliaryData` (Sec. 4): of other things than the experts know.

    The paper takes Fashion-MNIST for MNIST, and ImageNet for CIFAR-10 and CORe50. What a process has read it keeps.

    Args:
        name: ``mnist`` and ``fashion-mnist`` are grey; ``cifar10`` and ``imagenet`` have three channels. What is meant
            by the last one :func:`exml.datasets.imagenet` says.
        size: height and width: grey images are padded with black up to 32 pixels, all others resized.
        limit: of ImageNet at most so many, evenly over all files.

    >>> DatasetImages("imagenet", size=128)
    DatasetImages(name='imagenet', size=128, limit=50000)
    """

    name: Literal["mnist", "fashion-mnist", "cifar10", "imagenet"] = attrs.field(
        validator=one_of("mnist", "fashion-mnist", "cifar10", "imagenet")
    )
    size: int = attrs.field(default=32, validator=positive_int())
    limit: int = attrs.field(default=50_000, validator=positive_int())
    uses_real_data = False

    def __call__(self, experience: int, /) -> tuple[StoredImages, Labels | None]:
        """The same images for every experience, uint8, and no labels.

        Raises:
            DataError: when the dataset is not there; the message says where it should be.
            CheckpointError: when the cache of decoded photographs cannot be written.
        """
        return _images(self.name, self.size, self.limit, dataset_folder()), None


@lru_cache(maxsize=2)
def _images(name: str, size: int, limit: int, folder: Path) -> StoredImages:
    if name == "imagenet":
        return imagenet(size, limit=limit, folder=folder).images
    parts = GREY[name](folder) if name in GREY else cifar10(folder)
    images = Samples.concat([parts["train"], parts["validation"]]).images
    margin = size - images.shape[-1]
    if name in GREY and 0 <= margin <= 4:
        return nn.functional.pad(images, (margin // 2, margin - margin // 2) * 2)
    return images if margin == 0 else torch.stack([fitted(image, size) for image in images])
