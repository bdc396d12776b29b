"""MobileNetV2, the paper's model for CORe50 (Sec. 5)."""

from __future__ import annotations

from torch import nn

from exml.models._checks import require_positive_ints
from exml.models.registry import register


@register("mobilenet-v2")
def mobilenet_v2(classes: int = 50) -> nn.Module:
    """MobileNetV2 (Sandler et al. 2018) as torchvision has it, for colour images from 32 pixels, of any size.

    Its parameters have torchvision's names, so that weights for ImageNet fit all but the head.

    Args:
        classes: output units.

    Raises:
        SettingError: for a setting below 1.

    >>> sum(parameter.numel() for parameter in mobilenet_v2(classes=10).parameters())
    2236682
    """
    require_positive_ints("mobilenet-v2", classes=classes)
    from torchvision.models import MobileNetV2  # here, since torchvision is slow to import

    return MobileNetV2(num_classes=classes)
