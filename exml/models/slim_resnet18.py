"""ResNet-18 for small images, with few channels: the paper's model for CIFAR10 (Sec. 5)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from exml.core.shapes import Images, Logits
from exml.models._checks import require_positive_ints
from exml.models.registry import register


class _BasicBlock(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        same = stride == 1 and inputs == width
        projection = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        self.shortcut = nn.Identity() if same else projection
        self.activation = nn.ReLU()

    def forward(self, inputs: Float[Tensor, "batch c1 h1 w1"]) -> Float[Tensor, "batch c2 h2 w2"]:
        return self.activation(self.residual(inputs) + self.shortcut(inputs))


@register("slim-resnet18")
class SlimResNet18(nn.Module):
    """ResNet-18 (He et al. 2016) with a first 3x3 convolution, no max-pooling, and ``width`` instead of 64 channels.

    Four stages of two basic blocks with 1, 2, 4 and 8 times ``width`` channels; the last three halve the image.

    Args:
        channels: of the images.
        classes: output units.
        width: channels of the first stage; 20 in continual learning since Lopez-Paz and Ranzato (2017), 64 in He et al.

    Raises:
        SettingError: for a setting below 1.

    >>> import torch
    >>> SlimResNet18(width=4)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(self, channels: int = 3, classes: int = 10, width: int = 20) -> None:
        super().__init__()
        require_positive_ints("SlimResNet18", channels=channels, classes=classes, width=width)
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        blocks: list[nn.Module] = []
        inputs = width
        for factor, stride in ((1, 1), (2, 2), (4, 2), (8, 2)):
            blocks += [_BasicBlock(inputs, factor * width, stride), _BasicBlock(factor * width, factor * width, 1)]
            inputs = factor * width
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, images: Images) -> Logits:
        """Logits ``(batch, classes)`` of images ``(batch, channels, height, width)`` of any size."""
        return self.classifier(self.pool(self.blocks(self.stem(images))))
