"""Experts for images of another size, or with another number of channels, than they were trained on."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import attrs
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from exml.core.errors import ExpertError
from exml.core.expert import Expert
from exml.core.shapes import Images

LUMA = (0.299, 0.587, 0.114)
"""The weights of red, green and blue in gray (ITU-R BT.601)."""


def convertible(image_shape: tuple[int, int, int], other: tuple[int, int, int], /) -> bool:
    """Whether images of one shape can become images of the other: the same channels, or gray and color.

    >>> from exml.experts.adapting import convertible
    >>> convertible((1, 28, 28), (3, 32, 32)), convertible((4, 32, 32), (3, 32, 32))
    (True, False)
    """
    return image_shape[0] == other[0] or {image_shape[0], other[0]} == {1, 3}


def adapted(expert: Expert, image_shape: tuple[int, int, int], /) -> Expert:
    """The expert for images of another shape, which it converts to its own; itself for images of its own shape.

    Sizes change by bilinear interpolation with antialiasing, which has a gradient. Gray images are repeated for an
    expert of color images; color images become gray by ITU-R BT.601, ``0.299 R + 0.587 G + 0.114 B``. The module of the
    expert, with its layers, becomes the part ``module`` of the new module. Mean and std stay as they are, except that
    those of three channels are averaged for gray images, and corrected in the module.

    Raises:
        ExpertError: the numbers of channels differ and are not 1 and 3.

    >>> import torch
    >>> from exml.experts import Expert, adapted
    >>> head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 2))
    >>> expert = adapted(Expert(head, (0, 1), (3, 8, 8), mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.3)), (1, 6, 6))
    >>> expert.logits(torch.rand(5, 1, 6, 6)).shape, expert.image_shape, expert.mean
    (torch.Size([5, 2]), (1, 6, 6), (0.5,))
    """
    image_shape = (image_shape[0], image_shape[1], image_shape[2])
    if image_shape == expert.image_shape:
        return expert
    if not convertible(expert.image_shape, image_shape):
        expected = f"images with {expert.image_shape[0]} channel(s) for expert {expert.name!r}"
        remedy = "only gray and color are converted; leave the expert out, or choose another image shape"
        raise ExpertError(expected=expected, got=str(image_shape), remedy=remedy)
    mean, std = expert.mean, expert.std
    if image_shape[0] < expert.image_shape[0]:
        mean, std = (fmean(mean),), (fmean(std),)
    module = _Adapted(expert, image_shape, mean, std)
    return attrs.evolve(expert, module=module, image_shape=image_shape, mean=mean, std=std)


class _Adapted(nn.Module):
    """Converts normalized images to the shape that a module takes.

    Resizing and luma are averages, so they give the same before and after a normalization that all channels share.
    Two products with matrices are faster than the interpolation itself, and deterministic on every device.
    """

    rows: Tensor | None
    columns: Tensor | None
    luma: Tensor | None
    scale: Tensor | None
    shift: Tensor | None

    def __init__(self, expert: Expert, image_shape: tuple[int, int, int], mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.module = expert.module
        self.training = bool(getattr(expert.module, "training", False))
        (channels, *given), (self.channels, *wanted) = image_shape, expert.image_shape
        scale, shift, luma, rows, columns = None, None, None, None, None
        if channels < self.channels and (tuple(mean), tuple(std)) != (expert.mean, expert.std):
            own_mean, own_std = (
                torch.tensor(values, dtype=torch.float64).view(-1, 1, 1) for values in (expert.mean, expert.std)
            )
            scale, shift = std[0] / own_std, (mean[0] - own_mean) / own_std
        if channels > self.channels:
            luma = torch.tensor(LUMA, dtype=torch.float64).view(1, 3, 1, 1)
        if given != wanted:
            rows, columns = map(_resizing, given, wanted)
            columns = columns.T.contiguous()
        like = next((value for value in expert.module.parameters() if value.is_floating_point()), torch.zeros(()))
        parts = {"rows": rows, "columns": columns, "luma": luma, "scale": scale, "shift": shift}
        for name, value in parts.items():
            moved = None if value is None else value.to(like.device, like.dtype)
            self.register_buffer(name, moved, persistent=False)

    def forward(self, images: Images) -> Any:
        if self.luma is not None:
            images = functional.conv2d(images, self.luma)
        if self.rows is not None and self.columns is not None:
            images = self.rows @ images @ self.columns
        if self.scale is not None and self.shift is not None:
            return self.module(images * self.scale + self.shift)
        return self.module(images.expand(-1, self.channels, -1, -1))


def _resizing(given: int, wanted: int) -> Float[Tensor, "wanted given"]:
    """The linear map of antialiased bilinear interpolation along one axis."""
    columns = torch.eye(given, dtype=torch.float64).view(1, 1, given, given)
    size = (wanted, given)
    return functional.interpolate(columns, size, mode="bilinear", antialias=True)[0, 0]
