"""Drawings: curved strokes of a pen on a ground, like signs of an unknown script."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from exml.core.shapes import Images
from exml.generators.procedural._draws import palette, pixel_centres, uniform

_STROKES = 5  # at most in one image
_SEGMENTS = 8  # straight pieces of a curve
_THIN, _THICK = 0.06, 0.35  # width of a pen, in units of the short side
_THIN_PIXELS = 1.2  # below this a stroke is a shadow only

Polarity = Literal["light", "dark", "any"]


def strokes(count: int, image_shape: tuple[int, int, int], draws: torch.Generator, polarity: Polarity) -> Images:
    """One to five cubic Bézier curves an image, stretched to fill most of it.

    Many strokes begin where the one before ended. The images differ in the number of strokes, their bend, the width and
    the softness of the pen, ground and inks.

    Args:
        count: images.
        image_shape: ``(channels, height, width)``.
        draws: source of randomness; the images are on its device.
        polarity: ``"light"`` strokes on a ground that is black four times of five, and dark otherwise; ``"dark"``, the
            inverse; ``"any"``, half of each, on grounds up to a middle brightness.

    Returns:
        ``(count, *image_shape)``, in [0, 1].

    >>> strokes(2, (1, 8, 8), torch.Generator().manual_seed(0), "light").shape
    torch.Size([2, 1, 8, 8])
    """
    channels, height, width = image_shape
    side = min(height, width)
    number = 1 + (_STROKES * uniform(draws, count, 1)).long()
    shown = torch.arange(_STROKES, device=draws.device) < number
    thin = max(_THIN * side, _THIN_PIXELS)
    pen = thin * max(_THICK * side / thin, 1.0) ** uniform(draws, count, 1)
    points = _fill(_curves(count, draws), shown, pen, height, width, draws)
    radii = 0.5 * pen * uniform(draws, count, _STROKES, low=0.7, high=1.3)
    softness = uniform(draws, count, 1, low=0.8, high=1.8)
    ground, inks = _colours(count, channels, draws, polarity)
    image = ground[:, :, None].expand(-1, -1, height * width)
    x, y = pixel_centres(height, width, draws.device)
    for stroke in range(_STROKES):
        distance = _distance(points[:, stroke], x, y)
        cover = ((radii[:, stroke, None] - distance) / softness + 0.5).clamp(0, 1) * shown[:, stroke, None]
        image = torch.lerp(image, inks[:, stroke, :, None], cover[:, None])
    if polarity != "light":
        inverted = uniform(draws, count, 1, 1) < (1.0 if polarity == "dark" else 0.5)
        image = torch.where(inverted, 1 - image, image)
    return image.reshape(count, channels, height, width)


def _curves(count: int, draws: torch.Generator) -> Tensor:
    """Points on the curves, ``(count, stroke, point, 2)``, in a square of unknown size."""
    control = uniform(draws, count, _STROKES, 4, 2)
    linked = uniform(draws, count, _STROKES, 1) < 0.6
    for stroke in range(1, _STROKES):
        control[:, stroke, 0] = torch.where(linked[:, stroke], control[:, stroke - 1, 3], control[:, stroke, 0])
    thirds = torch.linspace(0, 1, 4, device=draws.device).view(4, 1)
    chord = torch.lerp(control[:, :, :1], control[:, :, 3:], thirds)
    bent = torch.lerp(chord, control, uniform(draws, count, _STROKES, 1, 1, high=1.5))
    t = torch.linspace(0, 1, _SEGMENTS + 1, device=draws.device)
    bernstein = torch.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], dim=1)
    return bernstein @ bent


def _fill(points: Tensor, shown: Tensor, pen: Tensor, height: int, width: int, draws: torch.Generator) -> Tensor:
    """Move and stretch the drawings, in each direction by itself, to a large part of the image; in pixels."""
    mask = shown[:, :, None, None]
    low, high = points.where(mask, torch.inf).amin((1, 2)), points.where(mask, -torch.inf).amax((1, 2))
    frame = points.new_tensor([width, height])
    wanted = (frame * uniform(draws, len(points), 2, low=0.6) - pen).clamp_min(0.2 * frame)
    # A straight upright stroke has no width to stretch.
    stretch = (wanted / (high - low).clamp_min(1e-3)).clamp_max(4 * min(height, width))
    centre = frame * uniform(draws, len(points), 2, low=0.44, high=0.56)
    return (points - ((low + high) / 2)[:, None, None]) * stretch[:, None, None] + centre[:, None, None]


def _colours(count: int, channels: int, draws: torch.Generator, polarity: Polarity) -> tuple[Tensor, Tensor]:
    """The ground, ``(count, channels)``, and the lighter ink of every stroke, ``(count, stroke, channels)``."""
    tint = palette(draws, count, _STROKES + 1, channels)
    tint = tint / tint.amax(2, keepdim=True).clamp_min(1e-3)
    level = uniform(draws, count, 1, high=0.6) if polarity == "any" else 0.4 * uniform(draws, count, 1, low=-4.0)
    ground = level.clamp_min(0) * tint[:, 0]
    strength = uniform(draws, count, 1, 1, low=0.7) * uniform(draws, count, _STROKES, 1, low=0.4)
    return ground, ground[:, None] + (1 - ground[:, None]) * strength * tint[:, 1:]


def _distance(points: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """From each pixel to the nearest point of a chain of straight segments, ``(count, pixels)``."""
    start, along = points[:, :-1, :, None], points.diff(dim=1)[..., None]
    from_x, from_y = x - start[:, :, 0], y - start[:, :, 1]
    along_x, along_y = along[:, :, 0], along[:, :, 1]
    length = (along_x**2 + along_y**2).clamp_min(1e-8)
    nearest = ((from_x * along_x + from_y * along_y) / length).clamp(0, 1)
    return torch.hypot(from_x - nearest * along_x, from_y - nearest * along_y).amin(1)
