"""Small random transformations that preserve the class of an image."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Literal

import attrs
import torch
from jaxtyping import Float, Int
from torch import Tensor

from exml.augmentation import _transforms as transforms
from exml.core.registry import component
from exml.core.shapes import Images
from exml.core.validators import field_error, in_range, one_of


def _values(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not value or not all(isinstance(number, int | float) and math.isfinite(number) for number in value):
        expected = "one finite number, or one per channel,"
        raise field_error(instance, attribute, value, expected, "write it as (0.0,)")


@component
@attrs.frozen
class Augmentation:
    """Shift, rotate, mirror, scale and recolor every image by its own random parameters (Sec. 4.1, "Augmentations").

    The geometry of an image is one affine warp, interpolated once; shifts and mirror images alone copy pixels exactly.
    Differentiable with respect to the images; nothing is clamped to [0, 1]. On one kind of device, the same generator
    state gives the same parameters.

    Args:
        shift: the largest shift in whole pixels, horizontally and vertically independent; >= 0.
        rotation: the largest rotation in degrees, to either side; 0 to 180.
        flip: probability of a mirror image (left and right swapped); 0 to 1.
        scale: relative sizes range from ``1 - scale`` to ``1 + scale``; 0 to 0.9.
        brightness: factors range from ``1 - brightness`` to ``1 + brightness``, as for the next two; 0 to 1.
        contrast: distance from the image's mean gray; 0 to 1.
        saturation: distance of each pixel from gray, for images with 3 channels; 0 to 1.
        padding: beyond the border, the outermost pixels, zeros, or the image mirrored.
        fill: with ``padding="zeros"``, the value of the padding: one, or one per channel. In distillation 0 is black;
            in generation, in the expert's normalized units, 0 is the mean color of its images.
        parameters: one set for each ``"image"``, or for the whole ``"batch"`` as in the generation of the paper's code.

    >>> import torch
    >>> from exml.augmentation import Augmentation
    >>> images = torch.rand(4, 1, 8, 8)
    >>> shifted = Augmentation(shift=2)(images, torch.Generator().manual_seed(0))
    >>> shifted.shape, torch.equal(shifted, images)
    (torch.Size([4, 1, 8, 8]), False)
    >>> Augmentation.cifar10()
    Augmentation(shift=2, rotation=15.0, flip=0.5, scale=0.1, ...)
    """

    shift: int = attrs.field(default=0, validator=in_range(0, integer=True))
    rotation: float = attrs.field(default=0.0, validator=in_range(0, 180))
    flip: float = attrs.field(default=0.0, validator=in_range(0, 1))
    scale: float = attrs.field(default=0.0, validator=in_range(0, 0.9))
    brightness: float = attrs.field(default=0.0, validator=in_range(0, 1))
    contrast: float = attrs.field(default=0.0, validator=in_range(0, 1))
    saturation: float = attrs.field(default=0.0, validator=in_range(0, 1))
    padding: Literal["border", "zeros", "reflection"] = attrs.field(
        default="border", validator=one_of("border", "zeros", "reflection")
    )
    fill: tuple[float, ...] = attrs.field(default=(0.0,), converter=tuple, validator=_values)
    parameters: Literal["image", "batch"] = attrs.field(default="image", validator=one_of("image", "batch"))

    @classmethod
    def mnist(cls) -> Augmentation:
        """Shifts only, for digits of 28 to 32 pixels; a rotated or mirrored digit may look like another."""
        return cls(shift=4)

    @classmethod
    def cifar10(cls) -> Augmentation:
        """Small shifts, rotations, mirror images and changes of size, for 32 pixels."""
        return cls(shift=2, rotation=15.0, flip=0.5, scale=0.1)

    @classmethod
    def core50(cls) -> Augmentation:
        """Small shifts, rotations and mirror images, for 128 pixels."""
        return cls(shift=4, rotation=15.0, flip=0.5)

    def __call__(self, images: Images, generator: torch.Generator, /) -> Images:
        """Transform every image by its own parameters; ``generator`` is on the device of the images."""
        return self.apply(images, self.draw(len(images), generator))

    def draw(self, count: int, generator: torch.Generator, /) -> Float[Tensor, "8 count"]:
        """Draws for :meth:`apply` to ``count`` images, on the device of the generator."""
        # Always 8 rows, so that switching one change off leaves the draws of the others as they are.
        different = count if self.parameters == "image" else 1
        return torch.rand(8, different, generator=generator, device=generator.device).expand(8, count)

    def apply(self, images: Images, draws: Float[Tensor, "8 batch"], /) -> Images:
        """Transform every image by its column of ``draws``, in [0, 1).

        This is a function of tensors alone, for ``torch.compile``, which accepts no generators.

        >>> import torch
        >>> from exml.augmentation import Augmentation
        >>> images = torch.rand(4, 1, 8, 8)
        >>> shifts = Augmentation(shift=2)
        >>> draws = shifts.draw(4, torch.Generator().manual_seed(0))
        >>> torch.equal(shifts.apply(images, draws), shifts(images, torch.Generator().manual_seed(0)))
        True
        """
        filled = self.padding == "zeros" and any(self.fill)
        fill = _tensor(self.fill, images.dtype, images.device) if filled else 0
        images = images - fill if filled else images
        if self.rotation or self.scale:
            matrices = transforms.inverse_affine(
                angle=_signed(draws[0]) * math.radians(self.rotation),
                scale=1 + self.scale * _signed(draws[1]),
                mirror=torch.where(draws[2] < self.flip, -1.0, 1.0),
                shift=self._shift(draws).to(draws.dtype),
            )
            images = transforms.warp(images, matrices, self.padding)
        elif self.shift or self.flip:
            mirrored = draws[2] < self.flip if self.flip else None
            images = transforms.move(images, mirrored, self._shift(draws), self.padding)
        images = images + fill if filled else images
        if self.brightness:
            images = transforms.adjust_brightness(images, (1 + self.brightness * _signed(draws[5])).to(images.dtype))
        if self.contrast:
            images = transforms.adjust_contrast(images, (1 + self.contrast * _signed(draws[6])).to(images.dtype))
        if self.saturation:
            images = transforms.adjust_saturation(images, (1 + self.saturation * _signed(draws[7])).to(images.dtype))
        return images

    def _shift(self, draws: Float[Tensor, "8 batch"]) -> Int[Tensor, "2 batch"]:
        return (draws[3:5] * (2 * self.shift + 1)).long() - self.shift


@lru_cache(maxsize=32)
def _tensor(fill: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Float[Tensor, "channels 1 1"]:
    with torch.inference_mode(False):  # kept for later calls, which may need gradients, or be captured on a device
        return torch.tensor(fill, dtype=dtype, device=device).view(-1, 1, 1)


def _signed(draws: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    return 2 * draws - 1
