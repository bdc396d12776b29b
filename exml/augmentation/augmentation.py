"""Small random changes that keep the class of an image."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Literal

import attrs
import torch
from jaxtyping import Float, Int
from torch import Tensor

from exml.augmentation._jitter import adjust_brightness, adjust_contrast, adjust_saturation
from exml.augmentation._warp import inverse_affine, move, warp
from exml.core.errors import SettingError
from exml.core.registry import component
from exml.core.shapes import Images
from exml.core.validators import in_range, one_of


def _values(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not value or not all(isinstance(number, int | float) and math.isfinite(number) for number in value):
        raise SettingError(
            expected=f"one finite number, or one a channel, for {type(instance).__name__}.{attribute.name}",
            got=repr(value),
            remedy="write it as (0.0,)",
        )


@component
@attrs.frozen
class Augmentation:
    """Shift, turn, mirror, scale and recolour every image by random parameters of its own (Sec. 4.1, "Augmentations").

    The geometry of an image is one affine warp, interpolated once; shifts and mirror images alone are exact copies of
    pixels. What is not asked for is not computed.
    Differentiable in the images; nothing is cut to [0, 1]. The same generator state gives the same parameters (on each
    kind of device its own).

    Args:
        shift: whole pixels, up to so many to each side, right and left, down and up independently; >= 0.
        rotation: degrees, up to so many to either side; 0 to 180.
        flip: probability of a mirror image (left and right swapped); 0 to 1.
        scale: relative, sizes from ``1 - scale`` to ``1 + scale``; 0 to 0.9.
        brightness: factors from ``1 - brightness`` to ``1 + brightness``, as for the next two; 0 to 1.
        contrast: distance from the image's mean grey; 0 to 1.
        saturation: distance from grey of each pixel, for images with 3 channels; 0 to 1.
        padding: what comes in from beyond the border: the outermost pixels, zeros, or the image mirrored.
        fill: with ``padding="zeros"``, what to take for zero: one value, or one a channel. In distillation 0 is black;
            in the expert's normalised units, where generation is at home, 0 is the mean colour of its images.
        parameters: whether every ``"image"`` has its own, or all images of a ``"batch"`` the same, as in the
            generation of the paper's code.

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
        """Displacements only, for digits of 28 to 32 pixels; mirrored or turned, some would be others."""
        return cls(shift=4)

    @classmethod
    def cifar10(cls) -> Augmentation:
        """Small displacements, rotations, mirror images and sizes, for 32 pixels."""
        return cls(shift=2, rotation=15.0, flip=0.5, scale=0.1)

    @classmethod
    def core50(cls) -> Augmentation:
        """Small displacements, rotations and mirror images, for 128 pixels."""
        return cls(shift=4, rotation=15.0, flip=0.5)

    def __call__(self, images: Images, generator: torch.Generator, /) -> Images:
        """Change every image by its own parameters; ``generator`` is on the device of the images."""
        return self.apply(images, self.draw(len(images), generator))

    def draw(self, count: int, generator: torch.Generator, /) -> Float[Tensor, "8 count"]:
        """Draws for :meth:`apply` of so many images, on the device of the generator."""
        # Always as many: to switch one change off leaves the others as they are.
        different = count if self.parameters == "image" else 1
        return torch.rand(8, different, generator=generator, device=generator.device).expand(8, count)

    def apply(self, images: Images, draws: Float[Tensor, "8 batch"], /) -> Images:
        """Change every image by parameters made of its column of ``draws``, in [0, 1): a function of tensors alone.

        For ``torch.compile``, which takes no generators.

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
            matrices = inverse_affine(
                angle=_signed(draws[0]) * math.radians(self.rotation),
                scale=1 + self.scale * _signed(draws[1]),
                mirror=torch.where(draws[2] < self.flip, -1.0, 1.0),
                shift=self._shift(draws).to(draws.dtype),
            )
            images = warp(images, matrices, self.padding)
        elif self.shift or self.flip:
            mirrored = draws[2] < self.flip if self.flip else None
            images = move(images, mirrored, self._shift(draws), self.padding)
        images = images + fill if filled else images
        if self.brightness:
            images = adjust_brightness(images, (1 + self.brightness * _signed(draws[5])).to(images.dtype))
        if self.contrast:
            images = adjust_contrast(images, (1 + self.contrast * _signed(draws[6])).to(images.dtype))
        if self.saturation:
            images = adjust_saturation(images, (1 + self.saturation * _signed(draws[7])).to(images.dtype))
        return images

    def _shift(self, draws: Float[Tensor, "8 batch"]) -> Int[Tensor, "2 batch"]:
        return (draws[3:5] * (2 * self.shift + 1)).long() - self.shift


@lru_cache(maxsize=32)
def _tensor(fill: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Float[Tensor, "channels 1 1"]:
    with torch.inference_mode(False):  # kept for later calls, which may need gradients, or be captured on a device
        return torch.tensor(fill, dtype=dtype, device=device).view(-1, 1, 1)


def _signed(draws: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    return 2 * draws - 1
