"""A small convolutional network, quick on a CPU."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from exml.core.errors import SettingError
from exml.core.shapes import Images, Logits
from exml.models._checks import require_positive_ints
from exml.models.registry import register


@register("conv-net")
class ConvNet(nn.Module):
    """Blocks of 3x3 convolution, batch norm, ReLU and 2x2 max-pooling, then one linear layer.

    Args:
        channels: of the images.
        classes: output units.
        image_size: height and width of the images, at least 2 to the number of blocks.
        widths: channels of each block.
        batch_norm: with batch norm, or with a bias in each convolution instead.

    Raises:
        SettingError: for a setting below 1, or images too small for so many blocks.

    >>> import torch
    >>> ConvNet(channels=1, classes=10, image_size=8)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        image_size: int,
        widths: Sequence[int] = (16, 32),
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        require_positive_ints("ConvNet", channels=channels, classes=classes, image_size=image_size)
        require_positive_ints("ConvNet", **{f"widths[{index}]": width for index, width in enumerate(widths)})
        if not widths or image_size < 2 ** len(widths):
            most = max(image_size.bit_length() - 1, 1)
            raise SettingError(
                expected=f"between 1 and {most} ConvNet.widths for images of {image_size} pixels",
                got=str(tuple(widths)),
                remedy="take as many blocks as the images can be halved",
            )
        layers: list[nn.Module] = []
        for inputs, width in zip((channels, *widths), widths, strict=False):
            layers.append(nn.Conv2d(inputs, width, 3, padding=1, bias=not batch_norm))
            layers += [nn.BatchNorm2d(width)] if batch_norm else []
            layers += [nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.classifier = nn.Linear(widths[-1] * (image_size // 2 ** len(widths)) ** 2, classes)

    def forward(self, images: Images) -> Logits:
        """Logits ``(batch, classes)`` of images ``(batch, channels, image_size, image_size)``."""
        return self.classifier(self.features(images))
