"""Affine warps, each image by a matrix of its own."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from exml._types import Images


def inverse_affine(
    angle: Float[Tensor, " batch"],
    scale: Float[Tensor, " batch"],
    mirror: Float[Tensor, " batch"],
    shift: Float[Tensor, "2 batch"],
) -> Float[Tensor, "batch 2 3"]:
    """Where each pixel of the result comes from, in pixels from the centre of the image.

    The image is mirrored, scaled, turned and shifted, in this order; what is returned undoes that, from the last to the
    first: ``A = M · R(-angle) / scale`` and ``-A · shift`` beside it.

    Args:
        angle: radians, counter-clockwise as one sees it.
        scale: > 1 enlarges.
        mirror: -1 swaps left and right, 1 does not.
        shift: pixels to the right and down.
    """
    cos, sin = angle.cos() / scale, angle.sin() / scale
    right = torch.stack((mirror * cos, -mirror * sin), 1)
    down = torch.stack((sin, cos), 1)
    turned = torch.stack((right, down), 1)
    return torch.cat((turned, -(turned * shift.T[:, None]).sum(2, keepdim=True)), 2)


def warp(
    images: Images, matrices: Float[Tensor, "batch 2 3"], padding: Literal["border", "zeros", "reflection"]
) -> Images:
    """Read each pixel p of the result at ``matrix · (p, 1)`` of the image, bilinearly; p in pixels from the centre.

    Differentiable in the images. The grid is written out, because ``affine_grid`` is a matrix product, and those round
    to ten bits where a program allows TF32: a shift by whole pixels would blur.
    """
    precise = torch.promote_types(images.dtype, torch.float32)
    height, width = images.shape[-2:]
    x = torch.arange(width, dtype=precise, device=images.device) - (width - 1) / 2
    y = torch.arange(height, dtype=precise, device=images.device)[:, None] - (height - 1) / 2
    across, along, shift = matrices.to(precise)[..., None, None].unbind(2)
    source = across * x + along * y + shift
    grid = torch.stack((source[:, 0] * (2 / width), source[:, 1] * (2 / height)), -1)
    warped = functional.grid_sample(images.to(precise), grid, padding_mode=padding, align_corners=False)
    return warped.to(images.dtype)
