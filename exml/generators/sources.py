"""Sources: where generators without optimization take their images from."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal

import attrs
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from exml.core.errors import DataError
from exml.core.files import write_tensors
from exml.core.registry import component
from exml.core.samples import Samples, StoredImages, fitted
from exml.core.shapes import Images, Labels
from exml.core.validators import one_of, positive_int
from exml.datasets import cifar10, dataset_folder, fashion_mnist, imagenet, mnist


@attrs.frozen(eq=False)
class InMemory:
    """Tensors as a source, the same for every experience.

    A strategy that holds tensors cannot be serialized; one with an :class:`ImageFile` can.

    Args:
        images: ``(n, channels, height, width)``, floating, in pixel units.
        labels: ``(n,)`` int64, global class ids.

    >>> images, labels = InMemory(torch.zeros(4, 1, 8, 8))(1)
    >>> images.shape, labels
    (torch.Size([4, 1, 8, 8]), None)
    """

    images: Images = attrs.field(repr=lambda images: "x".join(map(str, images.shape)))
    labels: Labels | None = attrs.field(default=None, repr=lambda labels: "none" if labels is None else "yes")
    uses_real_data = False

    def __call__(self, experience: int, /) -> tuple[Images, Labels | None]:
        """The given images and labels."""
        return self.images, self.labels


@component
@attrs.frozen
class ImageFile:
    """Images and optional labels in a safetensors file, the same for every experience.

    Args:
        path: a file with ``images`` ``(n, channels, height, width)``, uint8 (0 to 255) or floating in pixel units, and
            optionally ``labels`` ``(n,)``, integer global class ids. :meth:`write` creates one.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = ImageFile.write(f"{folder}/gray.safetensors", torch.full((4, 1, 8, 8), 51, dtype=torch.uint8))
    ...     images, labels = file(1)
    >>> images.shape, images.dtype, labels
    (torch.Size([4, 1, 8, 8]), torch.uint8, None)
    """

    path: str = attrs.field(converter=str)
    uses_real_data = False

    def __call__(self, experience: int, /) -> tuple[StoredImages, Labels | None]:
        """Read the file.

        Raises:
            DataError: when it is missing, is not a safetensors file, or its tensors do not have the expected form.
        """
        try:
            tensors = load_file(self.path)
        except (OSError, SafetensorError) as error:
            raise DataError(
                expected=f"a safetensors file {self.path}", got=str(error), remedy="write it with ImageFile.write"
            ) from error
        images, labels = tensors.get("images"), tensors.get("labels")
        _check(images, labels, self.path)
        assert images is not None
        return images, None if labels is None else labels.long()

    @staticmethod
    def write(path: Path | str, images: Tensor, labels: Tensor | None = None) -> ImageFile:
        """Write a file atomically; returns the source that reads it.

        Raises:
            DataError: when the tensors do not have the expected form.
            CheckpointError: when the file cannot be written.
        """
        _check(images, labels, "the tensors to write")
        write_tensors(Path(path), {"images": images} if labels is None else {"images": images, "labels": labels})
        return ImageFile(str(path))


def _check(images: Tensor | None, labels: Tensor | None, where: str) -> None:
    fits = images is not None and images.ndim == 4 and (images.is_floating_point() or images.dtype == torch.uint8)
    if not fits:
        raise DataError(
            expected=f"'images' (n, channels, height, width), uint8 or floating, in {where}",
            got="none" if images is None else f"{tuple(images.shape)} {images.dtype}",
            remedy="convert them and write them with ImageFile.write",
        )
    assert images is not None
    if labels is not None and (labels.shape != images.shape[:1] or labels.dtype not in (torch.int64, torch.int32)):
        raise DataError(
            expected=f"'labels' ({len(images)},), int64 or int32, in {where}",
            got=f"{tuple(labels.shape)} {labels.dtype}",
            remedy="provide one global class id per image",
        )


_GRAY = {"mnist": mnist, "fashion-mnist": fashion_mnist}


@component
@attrs.frozen
class DatasetImages:
    """All training images of a dataset, as auxiliary data of another domain (Sec. 4).

    The paper uses Fashion-MNIST for MNIST, and ImageNet for CIFAR-10 and CORe50. A process caches what it has read.

    Args:
        name: ``mnist`` and ``fashion-mnist`` are gray; ``cifar10`` and ``imagenet`` have three channels.
            :func:`exml.datasets.imagenet` describes the last one.
        size: height and width; gray images are padded with black up to 32 pixels, all others resized.
        limit: the maximum number of ImageNet images, evenly over all files.

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
            DataError: when the dataset is missing; the message names its expected location.
            CheckpointError: when the cache of decoded photographs cannot be written.
        """
        return _images(self.name, self.size, self.limit, dataset_folder()), None


@lru_cache(maxsize=2)
def _images(name: str, size: int, limit: int, folder: Path) -> StoredImages:
    if name == "imagenet":
        return imagenet(size, limit=limit, folder=folder).images
    parts = _GRAY[name](folder) if name in _GRAY else cifar10(folder)
    images = Samples.concat([parts["train"], parts["validation"]]).images
    margin = size - images.shape[-1]
    if name in _GRAY and 0 <= margin <= 4:
        return nn.functional.pad(images, (margin // 2, margin - margin // 2) * 2)
    return images if margin == 0 else torch.stack([fitted(image, size) for image in images])
