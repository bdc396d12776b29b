"""Dead leaves: shapes that lie over one another, the simplest images with the edges and scales of natural ones."""

from __future__ import annotations

import torch
from torch import Tensor

from exml.core.shapes import Images
from exml.generators.procedural._draws import palette, pixel_centres, uniform

_LEAVES = 40
_SMALL, _LARGE = 0.05, 0.5  # radii in units of the short side


def dead_leaves(count: int, image_shape: tuple[int, int, int], draws: torch.Generator) -> Images:
    """Forty ellipses and rectangles an image, of radii with density r^-3, each shaded from side to side.

    The power law makes the images look alike at every scale (Lee, Mumford and Huang, "Occlusion Models for Natural
    Images", 2001). The images differ in the size of the leaves as a whole, in the colours and in their contrast.

    Args:
        count: images.
        image_shape: ``(channels, height, width)``.
        draws: source of randomness; the images are on its device.

    Returns:
        ``(count, *image_shape)``, in [0, 1].

    >>> dead_leaves(2, (3, 8, 8), torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3, 8, 8])
    """
    channels, height, width = image_shape
    zoom = 3 ** uniform(draws, count, 1, low=-0.5, high=1.0)
    # The inverse of the cumulative distribution of r^-3 between the least and the greatest radius.
    radii = (_SMALL**-2 - uniform(draws, count, _LEAVES) * (_SMALL**-2 - _LARGE**-2)) ** -0.5
    radii = radii * zoom * min(height, width)
    stretch = 3 ** uniform(draws, count, _LEAVES, low=-0.5, high=0.5)
    angle = torch.pi * uniform(draws, count, _LEAVES)
    middle_x = width * uniform(draws, count, _LEAVES, low=-0.1, high=1.1)
    middle_y = height * uniform(draws, count, _LEAVES, low=-0.1, high=1.1)
    square = uniform(draws, count, _LEAVES) < 0.5
    shade = uniform(draws, count, _LEAVES, low=-0.3, high=0.3)
    colours = palette(draws, count, _LEAVES + 1, channels)
    x, y = pixel_centres(height, width, draws.device)
    image = colours[:, 0, :, None].expand(-1, -1, height * width)
    for leaf in range(_LEAVES):

        def of(values: Tensor, leaf: int = leaf) -> Tensor:
            return values[:, leaf, None]

        right, down = x - of(middle_x), y - of(middle_y)
        cos, sin = of(angle.cos()), of(angle.sin())
        along, across = (right * cos + down * sin) / of(stretch), (down * cos - right * sin) * of(stretch)
        distance = torch.where(of(square), torch.maximum(along.abs(), across.abs()), torch.hypot(along, across))
        cover = (of(radii) - distance + 0.5).clamp(0, 1)
        shaded = colours[:, leaf + 1, :, None] + (of(shade) * along / of(radii))[:, None]
        image = torch.lerp(image, shaded, cover[:, None])
    return image.clamp(0, 1).reshape(count, channels, height, width)
