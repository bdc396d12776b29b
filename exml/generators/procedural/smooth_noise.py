"""Smooth noise: clouds of every scale, from white noise to slow shades, and their level sets."""

from __future__ import annotations

import torch

from exml.core.shapes import Images
from exml.generators.procedural._draws import palette, uniform


def smooth_noise(count: int, image_shape: tuple[int, int, int], draws: torch.Generator) -> Images:
    """Gaussian fields with spectrum 1/f^s, s from 0 to 3, cut at a random level by a soft or a hard threshold.

    Natural images have s near 1. A hard threshold leaves two-coloured blobs. The images differ in spectrum, threshold,
    colours and contrast; in colour, the channels of an image have much or little in common.

    Args:
        count: images.
        image_shape: ``(channels, height, width)``.
        draws: source of randomness; the images are on its device.

    Returns:
        ``(count, *image_shape)``, in [0, 1].

    >>> smooth_noise(2, (3, 8, 8), torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3, 8, 8])
    """
    channels, height, width = image_shape
    white = torch.randn(count, channels, height, width, generator=draws, device=draws.device)
    common = uniform(draws, count, 1, 1, 1)
    white = torch.lerp(white, white[:, :1], common)
    down = torch.fft.fftfreq(height, device=draws.device)[:, None]
    right = torch.fft.rfftfreq(width, device=draws.device)
    frequency = torch.hypot(down, right).clamp_min(1 / max(height, width))
    slope = uniform(draws, count, 1, 1, 1, high=3.0)
    field = torch.fft.irfft2(torch.fft.rfft2(white) * frequency**-slope, s=(height, width))
    field = field - field.mean((2, 3), keepdim=True)
    field = field / field.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-6)
    steepness = 16 ** uniform(draws, count, 1, 1, 1)
    level = uniform(draws, count, 1, 1, 1, low=-1.2, high=1.2)
    share = (steepness * (field - level)).sigmoid()
    dark, light = palette(draws, count, 2, channels)[..., None, None].unbind(1)
    # Drawn apart, or half of the images would show next to nothing.
    dark, light = (
        dark * uniform(draws, count, 1, 1, 1, high=0.7),
        1 - (1 - light) * uniform(draws, count, 1, 1, 1, high=0.7),
    )
    return torch.lerp(dark, light, share)
