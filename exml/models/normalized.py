"""A module that normalizes its own images: a student together with its mean and std."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from exml.core.errors import SettingError
from exml.core.shapes import Images, Logits
from exml.models.registry import register


@register("normalized")
class Normalized(nn.Module):
    """``module((x - mean) / std)`` for images x in pixel units.

    Mean and std are float32 buffers: they are saved with the weights and move with the module.

    Args:
        module: takes normalized images.
        mean: of each channel, in pixel units; one number stands for all channels.
        std: of each channel, in pixel units, > 0.

    Raises:
        SettingError: when mean and std differ in length or a std is not positive.

    >>> pixels = torch.tensor([[[[0.1, 0.5]]]])
    >>> Normalized(nn.Flatten(), mean=(0.1,), std=(0.2,))(pixels)
    tensor([[0., 2.]])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, module: nn.Module, mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,)) -> None:
        super().__init__()
        if len(mean) != len(std) or not mean or min(std) <= 0:
            raise SettingError(
                expected="the same number of means and stds, one per channel or one for all, every std > 0",
                got=f"mean {tuple(mean)}, std {tuple(std)}",
                remedy="use those of the training images",
            )
        self.module = module
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, images: Images) -> Logits:
        """Logits of images ``(batch, channels, height, width)`` in pixel units."""
        return self.module((images - self.mean) / self.std)
