"""Brightness, contrast and saturation, each image by a factor of its own.

kornia's and torchvision's functions cut their results to [0, 1]. That stops the gradient wherever an image in the
making leaves this range, so the formulas stand here without it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from exml.core.shapes import Images


def adjust_brightness(images: Images, factors: Float[Tensor, " batch"]) -> Images:
    """Times the factor: 0 is black, 1 is no change."""
    return images * factors[:, None, None, None]


def adjust_contrast(images: Images, factors: Float[Tensor, " batch"]) -> Images:
    """Away from the mean of the grey image by the factor: 0 is uniformly grey, 1 is no change."""
    return torch.lerp(_grey(images).mean((2, 3), keepdim=True), images, factors[:, None, None, None])


def adjust_saturation(images: Images, factors: Float[Tensor, " batch"]) -> Images:
    """Away from the grey image by the factor: 0 is grey, 1 is no change; images without colour stay as they are."""
    return torch.lerp(_grey(images), images, factors[:, None, None, None]) if images.shape[1] == 3 else images


def _grey(images: Images) -> Float[Tensor, "batch 1 height width"]:
    """Luma of ITU-R BT.601 for three channels, else the mean channel."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    return 0.299 * images[:, :1] + 0.587 * images[:, 1:2] + 0.114 * images[:, 2:]
