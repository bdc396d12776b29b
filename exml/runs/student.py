"""The outcome of learning: a classifier to predict with, to save and to export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional

from exml.core.errors import DataError, ShapeError
from exml.core.expert import Expert
from exml.core.files import open_file
from exml.core.samples import inference_batch_size, to_pixels
from exml.experts import read_expert, save_pretrained
from exml.experts.adapting import LUMA, convertible
from exml.experts.exporting import Format, export
from exml.runs.agreement import Agreement
from exml.runs.result import Result

Picture: TypeAlias = "Image.Image | Path | str | Tensor | np.ndarray[Any, Any]"
"""An image of any size: a Pillow image, the path of a file, a tensor ``(channels, height, width)``, or an array
``(height, width)`` or ``(height, width, channels)``; tensors and arrays are uint8, or floating from 0 to 1."""
Prediction: TypeAlias = dict[str, float]
"""Probabilities by label, the most probable first."""


@attrs.frozen(eq=False)
class Student:
    """A trained student with its report. :func:`exml.learn` returns one; :meth:`load` reads one from its folder.

    Args:
        expert: the student as an expert, from which another student can learn.
        result: what its run measured; None for a classifier of another origin.
        provenance: where it comes from; see :func:`exml.experts.save_pretrained`.
        folder: that it was read from; None if it was not.

    >>> head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    >>> pets = Student(Expert(head, labels=["cat", "dog"], image_shape=(1, 8, 8)))
    >>> pets
    Student(2 classes, images 1x8x8)
    >>> sorted(pets.predict(torch.rand(3, 40, 30)))
    ['cat', 'dog']
    """

    expert: Expert = attrs.field(repr=False)
    result: Result | None = attrs.field(default=None, repr=False)
    provenance: Mapping[str, Any] = attrs.field(factory=dict[str, Any], repr=False)
    folder: Path | None = None

    @classmethod
    def load(cls, folder: Path | str, *, trust: bool = False) -> Student:
        """The student in a folder that ``exml learn`` or :meth:`save` wrote; or any classifier that exml reads.

        Args:
            folder: path of the folder; of a file, for a classifier in another format.
            trust: whether to accept formats whose loading executes code; see :func:`exml.load`.

        Raises:
            ExpertError: the classifier is missing, damaged, or lacks metadata.
            ConfigError: ``result.json`` in the folder is damaged.
        """
        files = read_expert(folder, trust=trust)
        report = Path(folder) / "result.json"
        result = Result.load(report) if report.is_file() else None
        return cls(files.expert(), result, files.card.training, Path(folder))

    @property
    def labels(self) -> tuple[str, ...]:
        """The name of each class, in the order of ``expert.classes``; the number of a class without a name."""
        return self.expert.labels or tuple(map(str, self.expert.classes))

    @property
    def agreement(self) -> Agreement | None:
        """How well it agrees with the experts that it learned from, measured without data."""
        return None if self.result is None else self.result.strategies[0].agreement

    def predict(self, images: Picture | Sequence[Picture], *, top: int | None = None) -> Prediction | list[Prediction]:
        """Probabilities by label, the most probable first: the softmax of the logits over the classes.

        Gray and color are converted, and images of another size are resized as a whole, with antialiasing.

        Args:
            images: an image, or a list or a batch ``(n, channels, height, width)`` of images.
            top: the number of labels to return; by default all.

        Returns:
            dict: of one image; a list of them for several.

        Raises:
            DataError: a file that is not an image.
            ShapeError: a tensor or array that is not an image.
        """
        several = isinstance(images, list | tuple) or (isinstance(images, Tensor | np.ndarray) and images.ndim == 4)
        pictures: Sequence[Picture] = images if several else [images]  # pyright: ignore[reportAssignmentType]
        found: list[Prediction] = []
        size = inference_batch_size(self.expert.image_shape)
        for first in range(0, len(pictures), size):
            pixels = torch.cat([as_pixels(each, self.expert.image_shape) for each in pictures[first : first + size]])
            with torch.no_grad():
                logits = self.expert.own_logits(self.expert.logits(pixels.to(self.expert.device)))
            for row in logits.softmax(1).cpu():
                order = row.argsort(descending=True, stable=True)[:top].tolist()
                found.append({self.labels[place]: float(row[place]) for place in order})
        return found if several else found[0]

    def save(self, folder: Path | str) -> Path:
        """Write the folder that :meth:`load` reads, in the layout of :func:`exml.experts.save_pretrained`."""
        save_pretrained(self.expert, folder, provenance=self.provenance)
        if self.result is not None:
            self.result.save(Path(folder) / "result.json")
        return Path(folder)

    def export(self, path: Path | str, *, format: Format | None = None) -> Path:
        """Write one file that needs no exml; :func:`exml.experts.export` documents it."""
        return export(self.expert, path, format=format)


def as_pixels(picture: Picture, image_shape: tuple[int, int, int], /) -> Float[Tensor, "1 channels height width"]:
    """An image in pixel units, converted between gray and color and resized with antialiasing.

    Raises:
        DataError: a file that is not an image.
        ShapeError: a tensor or array that is not an image, or has another number of channels.

    >>> as_pixels(Image.new("RGB", (30, 40), "white"), (1, 2, 2))
    tensor([[[[1., 1.],
              [1., 1.]]]])
    """
    channels, *size = image_shape
    if isinstance(picture, str | Path):
        picture = _opened(Path(picture))
    if isinstance(picture, Image.Image):
        picture = np.array(picture.convert("L" if channels == 1 else "RGB"))
    if isinstance(picture, np.ndarray):
        picture = torch.from_numpy(picture[..., None] if picture.ndim == 2 else picture)
        picture = picture.movedim(-1, 0)
    shaped = picture.ndim == 3 and convertible((picture.shape[0], 1, 1), (channels, 1, 1))
    ranged = picture.dtype == torch.uint8 or (
        picture.is_floating_point() and bool(((picture >= 0) & (picture <= 1)).all())
    )
    if not (shaped and ranged and picture.numel()):
        kind = "tensors (channels, height, width) and arrays (height, width, channels)"
        expected = f"an image with {channels} channel(s), or gray or color, uint8 or floating from 0 to 1"
        got, remedy = f"{tuple(picture.shape)} {picture.dtype}", f"give {kind}, without a normalization"
        raise ShapeError(expected=expected, got=got, remedy=remedy)
    pixels = to_pixels(picture[None]).float()
    if pixels.shape[1] > channels:
        pixels = pixels.movedim(1, -1) @ pixels.new_tensor(LUMA).unsqueeze(-1)
        pixels = pixels.movedim(-1, 1)
    pixels = functional.interpolate(pixels, size, mode="bilinear", antialias=True)
    return pixels.expand(-1, channels, -1, -1)


def _opened(path: Path) -> Image.Image:
    try:
        with open_file(path) as raw, Image.open(raw) as file:
            return ImageOps.exif_transpose(file).convert("RGB" if file.mode not in ("1", "L") else "L")
    # Pillow raises any of these for broken files.
    except (OSError, ValueError, SyntaxError, TypeError, EOFError, Image.DecompressionBombError) as error:
        got = str(error) or type(error).__name__
        raise DataError(
            expected=f"an image in {path}", got=got, remedy="get the file again, or leave it out"
        ) from error
