"""ResNet-18 for small images."""

from __future__ import annotations

from torch import nn

from exml.models.registry import register
from exml.models.slim_resnet18 import SlimResNet18


@register("resnet18")
def resnet18(channels: int = 3, classes: int = 10) -> nn.Module:
    """:class:`SlimResNet18` with the 64 channels of He et al. (2016): 11 million parameters instead of 1.1.

    Args:
        channels: of the images.
        classes: output units.

    Raises:
        SettingError: for a setting below 1.

    >>> sum(parameter.numel() for parameter in resnet18().parameters())
    11173962
    """
    return SlimResNet18(channels, classes, width=64)
