"""The architectures of the paper (Sec. 5), a small one for quick experiments, and one that normalizes its images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from exml.core.errors import SettingError
from exml.core.shapes import Images, Logits
from exml.models.registry import register


@register("conv-net")
class ConvNet(nn.Module):
    """Blocks of 3x3 convolution, batch norm, ReLU and 2x2 max-pooling, then one linear layer; fast on a CPU.

    Args:
        channels: of the images.
        classes: output units.
        image_size: height and width of the images, at least 2 to the number of blocks.
        widths: channels of each block.
        batch_norm: if False, each convolution has a bias instead.

    >>> import torch
    >>> from exml.models import ConvNet
    >>> ConvNet(channels=1, classes=10, image_size=8)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self, channels: int, classes: int, image_size: int, widths: Sequence[int] = (16, 32), batch_norm: bool = True
    ) -> None:
        super().__init__()
        _require_positive("ConvNet", channels=channels, classes=classes, image_size=image_size)
        _require_positive("ConvNet", **{f"widths[{index}]": width for index, width in enumerate(widths)})
        if not widths or image_size < 2 ** len(widths):
            most = max(image_size.bit_length() - 1, 1)
            expected = f"between 1 and {most} ConvNet.widths for images of {image_size} pixels"
            remedy = "each block halves the image; remove some, or use larger images"
            raise SettingError(expected=expected, got=str(tuple(widths)), remedy=remedy)
        layers: list[nn.Module] = []
        for inputs, width in zip((channels, *widths), widths, strict=False):
            layers.append(nn.Conv2d(inputs, width, 3, padding=1, bias=not batch_norm))
            layers += [nn.BatchNorm2d(width)] if batch_norm else []
            layers += [nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.classifier = nn.Linear(widths[-1] * (image_size // 2 ** len(widths)) ** 2, classes)

    def forward(self, images: Images) -> Logits:
        """Logits of images of the size given."""
        return self.classifier(self.features(images))


@register("lenet5")
class LeNet5(nn.Module):
    """LeNet-5 with ReLU and max-pooling, the paper's model for MNIST.

    Two 5x5 convolutions of 6 and 16 channels, then 120, 84 and ``classes`` units; ``image_size`` >= 16.

    >>> import torch
    >>> from exml.models import LeNet5
    >>> LeNet5()(torch.zeros(2, 1, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(self, channels: int = 1, classes: int = 10, image_size: int = 32) -> None:
        super().__init__()
        _require_positive("LeNet5", channels=channels, classes=classes, image_size=image_size)
        if image_size < 16:
            remedy = "use conv-net for smaller images"
            raise SettingError(expected="LeNet5.image_size >= 16", got=str(image_size), remedy=remedy)
        side = ((image_size - 4) // 2 - 4) // 2
        self.features = nn.Sequential(
            nn.Conv2d(channels, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.hidden = nn.Sequential(
            nn.Flatten(), nn.Linear(16 * side * side, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()
        )
        self.classifier = nn.Linear(84, classes)

    def forward(self, images: Images) -> Logits:
        """Logits of images of the size given."""
        return self.classifier(self.hidden(self.features(images)))


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
    """ResNet-18 for small images with few channels, the paper's model for CIFAR10.

    Unlike He et al. (2016), it starts with a 3x3 convolution without max-pooling. Four stages of two basic blocks have
    1, 2, 4 and 8 times ``width`` channels; the last three halve the image. The default width is that of Lopez-Paz and
    Ranzato (2017).

    >>> import torch
    >>> from exml.models import SlimResNet18
    >>> SlimResNet18(width=4)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(self, channels: int = 3, classes: int = 10, width: int = 20) -> None:
        super().__init__()
        _require_positive("SlimResNet18", channels=channels, classes=classes, width=width)
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
        """Logits of images of any size."""
        return self.classifier(self.pool(self.blocks(self.stem(images))))


class _CifarBlock(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.activation = nn.ReLU()
        self.stride, self.padding = stride, (width - inputs) // 2

    def forward(self, inputs: Float[Tensor, "batch c1 h1 w1"]) -> Float[Tensor, "batch c2 h2 w2"]:
        residual = self.bn2(self.conv2(self.activation(self.bn1(self.conv1(inputs)))))
        shortcut = inputs[:, :, :: self.stride, :: self.stride]
        if self.padding:
            shortcut = nn.functional.pad(shortcut, (0, 0, 0, 0, self.padding, self.padding))
        return self.activation(residual + shortcut)


def _stage(inputs: int, width: int, blocks: int) -> nn.Sequential:
    first = _CifarBlock(inputs, width, width // inputs)
    return nn.Sequential(first, *(_CifarBlock(width, width, 1) for _ in range(blocks - 1)))


@register("cifar-resnet")
class CifarResNet(nn.Module):
    """The ResNet of He et al. (2016) for CIFAR-10: ResNet-20, 32, 44 and 56 have 3, 5, 7 and 9 ``blocks`` per stage.

    Three stages have 1, 2 and 4 times ``width`` channels; the last two halve the image. Shortcuts have no parameters:
    they take every second pixel and add channels of zeros (option A). The names of the parameters are those of the
    weights that Yerlan Idelbayev published.

    >>> from exml.models import CifarResNet
    >>> sum(parameter.numel() for parameter in CifarResNet(blocks=3).parameters())  # "0.27M"
    269722
    """

    def __init__(self, blocks: int = 3, channels: int = 3, classes: int = 10, width: int = 16) -> None:
        super().__init__()
        _require_positive("CifarResNet", blocks=blocks, channels=channels, classes=classes, width=width)
        if width % 2:
            raise SettingError(expected="an even CifarResNet.width", got=str(width), remedy="add 1 to it")
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.activation = nn.ReLU()
        self.layer1 = _stage(width, width, blocks)
        self.layer2 = _stage(width, 2 * width, blocks)
        self.layer3 = _stage(2 * width, 4 * width, blocks)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.linear = nn.Linear(4 * width, classes)

    def forward(self, images: Images) -> Logits:
        """Logits of images of any size."""
        features = self.activation(self.bn1(self.conv1(images)))
        return self.linear(self.pool(self.layer3(self.layer2(self.layer1(features)))))


@register("resnet18")
def resnet18(channels: int = 3, classes: int = 10) -> nn.Module:
    """:class:`SlimResNet18` with the 64 channels of He et al. (2016): 11 million parameters instead of 1.1.

    >>> from exml.models import resnet18
    >>> sum(parameter.numel() for parameter in resnet18().parameters())
    11173962
    """
    return SlimResNet18(channels, classes, width=64)


@register("mobilenet-v2")
def mobilenet_v2(classes: int = 50) -> nn.Module:
    """Torchvision's MobileNetV2 (Sandler et al. 2018), the paper's model for CORe50; color images from 32 pixels.

    Torchvision's weights for ImageNet fit all layers except the head.

    >>> from exml.models import mobilenet_v2
    >>> sum(parameter.numel() for parameter in mobilenet_v2(classes=10).parameters())
    2236682
    """
    _require_positive("mobilenet-v2", classes=classes)
    from torchvision.models import MobileNetV2  # torchvision is slow to import

    return MobileNetV2(num_classes=classes)


@register("normalized")
class Normalized(nn.Module):
    """``module((x - mean) / std)`` for images x in pixel units; mean and std are float32 buffers.

    Args:
        module: takes normalized images.
        mean: of each channel, in pixel units, or one number for all.
        std: in pixel units, > 0; as long as ``mean``.

    >>> import torch
    >>> from exml.models import Normalized
    >>> pixels = torch.tensor([[[[0.1, 0.5]]]])
    >>> Normalized(torch.nn.Flatten(), mean=(0.1,), std=(0.2,))(pixels)
    tensor([[0., 2.]])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, module: nn.Module, mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,)) -> None:
        super().__init__()
        if len(mean) != len(std) or not mean or min(std) <= 0:
            expected = "the same number of means and stds, one per channel or one for all, every std > 0"
            remedy = "use those of the training images"
            raise SettingError(expected=expected, got=f"mean {tuple(mean)}, std {tuple(std)}", remedy=remedy)
        self.module = module
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, images: Images) -> Logits:
        """Logits of images in pixel units."""
        return self.module((images - self.mean) / self.std)


def _require_positive(owner: str, /, **settings: int) -> None:
    for name, value in settings.items():
        if type(value) is not int or value < 1:
            expected = f"an integer >= 1 for {owner}.{name}"
            raise SettingError(expected=expected, got=repr(value), remedy=f"correct {name}")
