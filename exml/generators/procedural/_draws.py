"""Random numbers and colours, on the device of their generator."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def uniform(draws: torch.Generator, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Uniform in ``[low, high)``.

    >>> uniform(torch.Generator(), 2, 3, low=-1.0).shape
    torch.Size([2, 3])
    """
    return low + (high - low) * torch.rand(shape, generator=draws, device=draws.device)


def palette(draws: torch.Generator, count: int, colours: int, channels: int) -> Float[Tensor, "count colours channels"]:
    """Colours in [0, 1]; those of one image share a range of brightness, a gamma and a saturation.

    A third of the images is grey; all are with one channel.

    >>> palette(torch.Generator(), 2, 5, 3).shape
    torch.Size([2, 5, 3])
    """
    grey = uniform(draws, count, colours, 1).expand(-1, -1, channels)
    hue = uniform(draws, count, colours, channels)
    saturation = uniform(draws, count, 1, 1, low=-0.5).clamp_min(0).sqrt() if channels > 1 else torch.zeros_like(hue)
    gamma = 4 ** uniform(draws, count, 1, 1, low=-0.5, high=0.5)
    contrast = uniform(draws, count, 1, 1, low=0.6)
    darkest = (1 - contrast) * uniform(draws, count, 1, 1)
    return darkest + contrast * torch.lerp(grey, hue, saturation) ** gamma


def pixel_centres(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Columns x and rows y of every pixel's centre, ``(height * width,)``, row after row; a pixel is 1 wide.

    >>> x, y = pixel_centres(1, 2, torch.device("cpu"))
    >>> x.tolist(), y.tolist()
    ([0.5, 1.5], [0.5, 0.5])
    """
    y, x = torch.meshgrid(
        torch.arange(height, device=device) + 0.5, torch.arange(width, device=device) + 0.5, indexing="ij"
    )
    return x.flatten(), y.flatten()
