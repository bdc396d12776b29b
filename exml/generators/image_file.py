"""A source of images in a file."""

from __future__ import annotations

from pathlib import Path

import attrs
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from exml.core.errors import DataError
from exml.core.files import write_tensors
from exml.core.registry import component
from exml.core.samples import StoredImages
from exml.core.shapes import Labels


@component
@attrs.frozen
class ImageFile:
    """Images, and labels if there are any, in a safetensors file; the same for every experience.

    Args:
        path: a file with ``images`` ``(n, channels, height, width)``, uint8 (0 to 255) or floating in pixel units, and
            optionally ``labels`` ``(n,)``, integer global class ids. :meth:`write` makes one.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = ImageFile.write(f"{folder}/grey.safetensors", torch.full((4, 1, 8, 8), 51, dtype=torch.uint8))
    ...     images, labels = file(1)
    >>> images.shape, images.dtype, labels
    (torch.Size([4, 1, 8, 8]), torch.uint8, None)
    """

    path: str = attrs.field(converter=str)
    uses_real_data = False

    def __call__(self, experience: int, /) -> tuple[StoredImages, Labels | None]:
        """Read the file.

        Raises:
            DataError: when it is absent, is no safetensors file, or does not hold what it should.
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
        """Write a file atomically, and give the source that reads it.

        Raises:
            DataError: when the tensors are not what a file holds.
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
            remedy="give one global class id an image",
        )
