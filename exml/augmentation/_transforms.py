"""Warps, exact moves and color changes with separate parameters for each image.

The color functions of kornia and torchvision clamp to [0, 1], which stops the gradient of images outside; these do not.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from exml.core.shapes import Images

Padding: TypeAlias = Literal["border", "zeros", "reflection"]
"""Beyond the border: the outermost pixels, zeros, or the image mirrored."""


def inverse_affine(
    angle: Float[Tensor, " batch"],
    scale: Float[Tensor, " batch"],
    mirror: Float[Tensor, " batch"],
    shift: Float[Tensor, "2 batch"],
) -> Float[Tensor, "batch 2 3"]:
    """The map from the result to the source that undoes mirroring, scaling, rotating and shifting, in this order.

    It is ``[A | -A · shift]`` with ``A = M · R(-angle) / scale``, in pixels from the center. The angle is in radians,
    counter-clockwise as displayed; a mirror of -1 swaps left and right; the shift is to the right and down.
    """
    cos, sin = angle.cos() / scale, angle.sin() / scale
    right = torch.stack((mirror * cos, -mirror * sin), 1)
    down = torch.stack((sin, cos), 1)
    turned = torch.stack((right, down), 1)
    return torch.cat((turned, -(turned * shift.T[:, None]).sum(2, keepdim=True)), 2)


def warp(images: Images, matrices: Float[Tensor, "batch 2 3"], padding: Padding) -> Images:
    """Sample each pixel p of the result at ``matrix · (p, 1)`` of the image, bilinearly; p in pixels from the center.

    Differentiable with respect to the images. The grid does not come from ``affine_grid``, which is a matrix product:
    with TF32 it rounds to ten bits, and a shift by whole pixels would blur.
    """
    precise = torch.promote_types(images.dtype, torch.float32)
    height, width = images.shape[-2:]
    x = torch.arange(width, dtype=precise, device=images.device)[:, None] - (width - 1) / 2
    y = torch.arange(height, dtype=precise, device=images.device)[:, None] - (height - 1) / 2
    right, down = matrices.to(precise).unbind(1)
    scaled = torch.stack((right * (2 / width), down * (2 / height)), 2)  # batch, factors of (x, y, 1), (right, down)
    across, along, shift = scaled[:, :, None].unbind(1)
    grid = (along * y)[:, :, None] + (across * x + shift)[:, None]  # the one sum that is as large as the images
    # With channels last, a CPU takes 1.5 times as long, including the copy.
    source = images.to(precise, memory_format=torch.contiguous_format)
    warped = functional.grid_sample(source, grid, padding_mode=padding, align_corners=False)
    return warped.to(images.dtype)


def move(
    images: Images, mirrored: Bool[Tensor, " batch"] | None, shift: Int[Tensor, "2 batch"], padding: Padding
) -> Images:
    """Mirror, then shift by whole pixels to the right and down; each pixel of the result is a pixel of the image.

    Equals :func:`warp` without interpolation, but is several times faster, forward and backward.
    """
    batch, channels, height, width = images.shape
    x = torch.arange(width, device=images.device) - shift[0, :, None]
    y = torch.arange(height, device=images.device) - shift[1, :, None]
    if mirrored is not None:
        x = torch.where(mirrored[:, None], width - 1 - x, x)
    places = _inside(y, height, padding)[:, :, None] * width + _inside(x, width, padding)[:, None]
    everywhere = places.view(batch, 1, -1).expand(-1, channels, -1)
    moved = images.flatten(2).gather(2, everywhere).view(images.shape)
    if padding != "zeros":
        return moved
    inside = ((y >= 0) & (y < height))[:, None, :, None] & ((x >= 0) & (x < width))[:, None, None]
    return torch.where(inside, moved, 0)


def _inside(places: Int[Tensor, "batch length"], length: int, padding: Padding) -> Int[Tensor, "batch length"]:
    """The places to read instead of places beyond the border."""
    if padding == "reflection":
        folded = places % (2 * length)
        return torch.minimum(folded, 2 * length - 1 - folded)
    return places.clamp(0, length - 1)


def adjust_brightness(images: Images, factors: Float[Tensor, " batch"]) -> Images:
    """Multiply by the factor: 0 gives black, 1 no change."""
    return images * factors[:, None, None, None]


def adjust_contrast(images: Images, factors: Float[Tensor, " batch"]) -> Images:
    """Scale the distance from the mean gray of the image: 0 gives uniform gray, 1 no change."""
    return torch.lerp(_gray(images).mean((2, 3), keepdim=True), images, factors[:, None, None, None])


def adjust_saturation(images: Images, factors: Float[Tensor, " batch"]) -> Images:
    """Scale the distance from the gray image: 0 gives gray, 1 no change; images without color do not change."""
    return torch.lerp(_gray(images), images, factors[:, None, None, None]) if images.shape[1] == 3 else images


def _gray(images: Images) -> Float[Tensor, "batch 1 height width"]:
    """Luma of ITU-R BT.601 for three channels, else the mean channel."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    return 0.299 * images[:, :1] + 0.587 * images[:, 1:2] + 0.114 * images[:, 2:]
