"""LeNet-5, the paper's model for MNIST (Sec. 5)."""

from __future__ import annotations

from torch import nn

from exml.core.errors import SettingError
from exml.core.shapes import Images, Logits
from exml.models._checks import require_positive_ints
from exml.models.registry import register


@register("lenet5")
class LeNet5(nn.Module):
    """LeNet-5 with ReLU and max-pooling: two 5x5 convolutions of 6 and 16 channels, then 120, 84 and ``classes`` units.

    At 32x32 the layer of 120 units sees the same 16x5x5 values as the 5x5 convolution of LeCun et al. (1998).

    Args:
        channels: of the images.
        classes: output units.
        image_size: height and width of the images, from 16.

    Raises:
        SettingError: for a setting below its least value.

    >>> import torch
    >>> LeNet5()(torch.zeros(2, 1, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(self, channels: int = 1, classes: int = 10, image_size: int = 32) -> None:
        super().__init__()
        require_positive_ints("LeNet5", channels=channels, classes=classes, image_size=image_size)
        if image_size < 16:
            raise SettingError(
                expected="LeNet5.image_size >= 16", got=str(image_size), remedy="use conv-net for smaller images"
            )
        side = ((image_size - 4) // 2 - 4) // 2
        self.features = nn.Sequential(
            nn.Conv2d(channels, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.hidden = nn.Sequential(
            nn.Flatten(), nn.Linear(16 * side * side, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()
        )
        self.classifier = nn.Linear(84, classes)

    def forward(self, images: Images) -> Logits:
        """Logits ``(batch, classes)`` of images ``(batch, channels, image_size, image_size)``."""
        return self.classifier(self.hidden(self.features(images)))
