"""Images of any size and format, as a classifier takes them."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional

from exml.core.errors import DataError, ShapeError
from exml.core.files import open_file
from exml.core.samples import to_pixels
from exml.experts.adapting import LUMA, convertible

Picture: TypeAlias = "Image.Image | Path | str | Tensor | np.ndarray"
"""An image of any size: a Pillow image, the path of a file, a tensor ``(channels, height, width)``, or an array
``(height, width)`` or ``(height, width, channels)``; tensors and arrays are uint8, or floating from 0 to 1."""


def as_pixels(picture: Picture, image_shape: tuple[int, int, int], /) -> Float[Tensor, "1 channels height width"]:
    """An image in pixel units, converted between gray and color and resized with antialiasing.

    Raises:
        DataError: a file that is not an image.
        ShapeError: a tensor or array that is not an image, or has another number of channels.

    >>> from PIL import Image
    >>> from exml.runs.pictures import as_pixels
    >>> as_pixels(Image.new("RGB", (30, 40), "white"), (1, 2, 2)).round(decimals=4)
    tensor([[[[1., 1.],
              [1., 1.]]]])
    """
    channels, *size = image_shape
    if isinstance(picture, str | Path):
        picture = _opened(Path(picture))
    if isinstance(picture, Image.Image):
        if picture.mode.startswith("I;16"):  # Pillow would cut off all values above 255
            picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
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
            return ImageOps.exif_transpose(file)
    # Pillow raises any of these for broken files.
    except (OSError, ValueError, SyntaxError, TypeError, EOFError, Image.DecompressionBombError) as error:
        got = str(error) or type(error).__name__
        raise DataError(
            expected=f"an image in {path}", got=got, remedy="get the file again, or leave it out"
        ) from error
