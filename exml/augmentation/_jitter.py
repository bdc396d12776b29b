"""Brightness, contrast and saturation, by one factor per image.

The functions of kornia and torchvision clamp their results to [0, 1]. That stops the gradient wherever an image that is
being optimized leaves this range, so these do not.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from exml.core.shapes import Images


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
