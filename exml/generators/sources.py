"""Sources: where generators without optimization take their images from."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Literal

import attrs
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import interpolate, pad

from exml.core.errors import DataError, SettingError
from exml.core.files import open_file, read_tensor_header, write_tensors
from exml.core.memory import require_memory
from exml.core.registry import component
from exml.core.rng import make_generator
from exml.core.samples import Samples, StoredImages, fitted
from exml.core.shapes import Images, Labels
from exml.core.validators import one_of, positive_int
from exml.datasets import cifar10, dataset_folder, fashion_mnist, imagenet, mnist
from exml.generators._common import as_tuple

_GRAY = {"mnist": mnist, "fashion-mnist": fashion_mnist}
_HEIGHT, _WIDTH = 427, 640  # pixels of the photographs that scikit-learn includes
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, the weights of most libraries


@attrs.frozen(eq=False)
class InMemory:
    """Tensors as a source, the same for every experience.

    A strategy that holds tensors cannot be serialized; one with an :class:`ImageFile` can. Tensors of another form
    raise a DataError.

    Args:
        images: ``(n, channels, height, width)``, uint8 (0 to 255) or floating in pixel units.
        labels: ``(n,)``, integer global class ids.

    >>> import torch
    >>> from exml.generators import InMemory
    >>> images, labels = InMemory(torch.zeros(4, 1, 8, 8))(1)
    >>> images.shape, labels
    (torch.Size([4, 1, 8, 8]), None)
    """

    images: StoredImages = attrs.field(repr=lambda images: "x".join(map(str, images.shape)))
    labels: Labels | None = attrs.field(default=None, repr=lambda labels: "none" if labels is None else "yes")
    uses_real_data = False

    def __attrs_post_init__(self) -> None:
        _checked(self.images, self.labels, "InMemory")

    def __call__(self, experience: int, /) -> tuple[StoredImages, Labels | None]:
        """The given images and labels."""
        return self.images, None if self.labels is None else self.labels.long()


@component
@attrs.frozen
class ImageFile:
    """Images and optional labels in a safetensors file, the same for every experience.

    Args:
        path: a file with ``images`` ``(n, channels, height, width)``, uint8 (0 to 255) or floating in pixel units, and
            optionally ``labels`` ``(n,)``, integer global class ids.

    >>> import tempfile, torch
    >>> from exml.generators import ImageFile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = ImageFile.write(f"{folder}/gray.safetensors", torch.full((4, 1, 8, 8), 51, dtype=torch.uint8))
    ...     images, labels = file(1)
    >>> images.shape, images.dtype, labels
    (torch.Size([4, 1, 8, 8]), torch.uint8, None)
    """

    path: str = attrs.field(converter=str)
    uses_real_data = False

    def __call__(self, experience: int, /) -> tuple[StoredImages, Labels | None]:
        """Read the file; raises a DataError if it is missing or its tensors do not have the expected form."""
        try:
            with open_file(Path(self.path)) as file:
                read_tensor_header(file)
            tensors = load_file(self.path)
        except (OSError, ValueError, SafetensorError) as error:
            raise DataError(
                expected=f"a safetensors file {self.path}", got=str(error), remedy="write it with ImageFile.write"
            ) from error
        images, labels = tensors.get("images"), tensors.get("labels")
        return _checked(images, labels, self.path), None if labels is None else labels.long()

    @staticmethod
    def write(path: Path | str, images: Tensor, labels: Tensor | None = None) -> ImageFile:
        """Write a file atomically and return the source that reads it; raises a DataError as a call does."""
        _checked(images, labels, "the tensors to write")
        write_tensors(Path(path), {"images": images} if labels is None else {"images": images, "labels": labels})
        return ImageFile(str(path))


def _checked(images: object, labels: object, where: str) -> Tensor:
    stored = isinstance(images, Tensor) and (images.is_floating_point() or images.dtype == torch.uint8)
    if not isinstance(images, Tensor) or not stored or images.ndim != 4:
        raise DataError(
            expected=f"'images' (n, channels, height, width), a tensor, uint8 or floating, in {where}",
            got=_form(images),
            remedy="convert them, those from 0 to 255 with images.to(torch.uint8)",
        )
    integers = isinstance(labels, Tensor) and labels.dtype in (torch.int64, torch.int32)
    if labels is not None and (not isinstance(labels, Tensor) or not integers or labels.shape != images.shape[:1]):
        raise DataError(
            expected=f"'labels' ({len(images)},), int64 or int32, in {where}",
            got=_form(labels),
            remedy="provide one global class id per image",
        )
    return images


def _form(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {value.dtype}"
    return "none" if value is None else type(value).__name__


@component
@attrs.frozen
class DatasetImages:
    """All training images of a dataset, as auxiliary data of another domain (Sec. 4).

    The paper uses Fashion-MNIST for MNIST, and ImageNet for CIFAR-10 and CORe50.

    Args:
        name: ``mnist`` and ``fashion-mnist`` are gray; ``cifar10`` and ``imagenet`` have three channels.
        size: height and width; gray images are padded with black up to 32 pixels, all others resized.
        limit: the maximum number of ImageNet images, evenly over all files.

    >>> from exml.generators import DatasetImages
    >>> DatasetImages("imagenet", size=128)
    DatasetImages(name='imagenet', size=128, limit=50000)
    """

    name: Literal["mnist", "fashion-mnist", "cifar10", "imagenet"] = attrs.field(
        validator=one_of("mnist", "fashion-mnist", "cifar10", "imagenet")
    )
    size: int = attrs.field(default=32, validator=positive_int(1024))
    limit: int = attrs.field(default=50_000, validator=positive_int())
    uses_real_data = False

    def __call__(self, experience: int, /) -> tuple[StoredImages, Labels | None]:
        """The same uint8 images for every experience; raises a DataError if the dataset is missing."""
        return _images(self.name, self.size, self.limit, dataset_folder()), None


@lru_cache(maxsize=2)
def _images(name: str, size: int, limit: int, folder: Path) -> StoredImages:
    if name == "imagenet":
        return imagenet(size, limit=limit, folder=folder).images
    parts = _GRAY[name](folder) if name in _GRAY else cifar10(folder)
    images = Samples.concat([parts["train"], parts["validation"]]).images
    margin = size - images.shape[-1]
    if name in _GRAY and 0 <= margin <= 4:
        return pad(images, (margin // 2, margin - margin // 2) * 2)
    return images if margin == 0 else torch.stack([fitted(image, size) for image in images])


@component
@attrs.frozen
class PhotoPatches:
    """Random patches, at several scales, of the two photographs that scikit-learn includes (a temple, a flower).

    Args:
        image_shape: ``(channels, height, width)`` of a patch; 1 channel is gray, 3 are color; at most 427 x 640.
        count: number of patches, of which half are mirrored.

    >>> from exml.generators import PhotoPatches
    >>> images, labels = PhotoPatches((3, 16, 16), count=10)(1)
    >>> images.shape, labels
    (torch.Size([10, 3, 16, 16]), None)
    """

    image_shape: tuple[int, int, int] = attrs.field(default=(1, 8, 8), converter=as_tuple)
    count: int = attrs.field(default=5000, validator=positive_int(2**21))
    uses_real_data = False

    @image_shape.validator  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUntypedFunctionDecorator]
    def _check_shape(self, _: object, shape: tuple[int, ...]) -> None:
        if len(shape) != 3 or shape[0] not in (1, 3) or not (1 <= shape[1] <= _HEIGHT and 1 <= shape[2] <= _WIDTH):
            raise SettingError(
                expected=f"image_shape (1 or 3, up to {_HEIGHT}, up to {_WIDTH}) for PhotoPatches",
                got=str(shape),
                remedy="use a smaller patch, or 1 or 3 channels",
            )

    def __call__(self, experience: int, /) -> tuple[Images, Labels | None]:
        """The same patches for every experience, in pixel units; no labels."""
        needed = 8 * self.count * math.prod(self.image_shape)  # the patches, and their mirror images
        require_memory(needed, f"{self.count} patches {self.image_shape}", "use a smaller count")
        levels = [level for photo in _photos(self.image_shape[0]) for level in _scales(photo, *self.image_shape[1:])]
        draws = make_generator("cpu", 0, "photo-patches")
        shares = (end - begin for begin, end in pairwise(self.count * k // len(levels) for k in range(len(levels) + 1)))
        patches = [_cut(level, self.image_shape, share, draws) for level, share in zip(levels, shares, strict=True)]
        images = torch.cat(patches)[torch.randperm(self.count, generator=draws)]
        mirrored = torch.rand(self.count, 1, 1, 1, generator=draws) < 0.5
        return images.flip(3).where(mirrored, images), None


def _photos(channels: int) -> list[Tensor]:
    from sklearn.datasets import load_sample_images  # scikit-learn takes seconds to import

    photos = [torch.tensor(photo).permute(2, 0, 1).float() / 255 for photo in load_sample_images().images]
    if channels == 3:
        return photos
    return [(photo * torch.tensor(_LUMA).view(3, 1, 1)).sum(0, keepdim=True) for photo in photos]


def _scales(photo: Tensor, height: int, width: int) -> list[Tensor]:
    """The photograph at full size, half size, and so on, while there is room for several different patches."""
    levels = [photo]
    while levels[-1].shape[1] >= 3 * height and levels[-1].shape[2] >= 3 * width:
        smaller = [side // 2 for side in levels[-1].shape[1:]]
        levels.append(interpolate(levels[-1][None], smaller, mode="bilinear", antialias=True)[0].clamp(0, 1))
    return levels


def _cut(photo: Tensor, shape: tuple[int, int, int], count: int, draws: torch.Generator) -> Tensor:
    _, height, width = shape
    top = torch.randint(photo.shape[1] - height + 1, (count, 1, 1), generator=draws)
    left = torch.randint(photo.shape[2] - width + 1, (count, 1, 1), generator=draws)
    return photo[:, top + torch.arange(height).view(-1, 1), left + torch.arange(width)].transpose(0, 1)
