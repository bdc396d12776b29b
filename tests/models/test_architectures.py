"""The architectures, against torchvision and the formulas of their parameters."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision import models as theirs
from torchvision.models.resnet import BasicBlock, ResNet

from exml.core.errors import SettingError
from exml.models import ConvNet, LeNet5, Normalized, SlimResNet18, build, describe, mobilenet_v2, resnet18


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_lenet5_has_the_parameters_of_lecun_1998() -> None:
    convolutions = 6 * (25 + 1) + 16 * (6 * 25 + 1)
    linear = 120 * (16 * 25 + 1) + 84 * (120 + 1) + 10 * (84 + 1)
    assert parameters(LeNet5()) == convolutions + linear == 61_706


@pytest.mark.parametrize("size", [16, 17, 28, 31, 32, 33, 64])
def test_lenet5_takes_every_size_from_16(size: int) -> None:
    assert LeNet5(3, 4, size)(torch.zeros(2, 3, size, size)).shape == (2, 4)


def test_slim_resnet18_computes_what_torchvision_does() -> None:
    wide = ResNet(BasicBlock, [2, 2, 2, 2], num_classes=7).double()
    wide.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False).double()
    wide.maxpool = nn.Identity()  # type: ignore[assignment]
    ours = SlimResNet18(channels=3, classes=7, width=64).double()
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype) / 10
        if tensor.is_floating_point()
        else tensor
        for name, tensor in wide.state_dict().items()
    }
    wide.load_state_dict(state)
    # Both list their layers in the order of the computation.
    assert [tensor.shape for tensor in ours.state_dict().values()] == [tensor.shape for tensor in state.values()]
    ours.load_state_dict(dict(zip(ours.state_dict(), state.values(), strict=True)))
    images = torch.rand(2, 3, 32, 32, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(ours.eval()(images), wide.eval()(images))


def test_slim_resnet18_of_width_20_has_the_parameters_of_its_formula() -> None:
    def block(inputs: int, width: int) -> int:
        projection = 0 if inputs == width else inputs * width + 2 * width
        return 9 * inputs * width + 9 * width * width + 4 * width + projection

    stages = [block(20, 20), block(20, 20), block(20, 40), block(40, 40)]
    stages += [block(40, 80), block(80, 80), block(80, 160), block(160, 160)]
    assert parameters(SlimResNet18()) == 9 * 3 * 20 + 2 * 20 + sum(stages) + 10 * (160 + 1)


@given(
    channels=st.integers(1, 3),
    classes=st.integers(1, 5),
    widths=st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple),
    extra=st.integers(0, 9),
    batch_norm=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_conv_net_takes_every_size_that_its_blocks_can_halve(
    channels: int, classes: int, widths: tuple[int, ...], extra: int, batch_norm: bool
) -> None:
    size = 2 ** len(widths) + extra
    net = ConvNet(channels, classes, size, widths, batch_norm)
    assert net(torch.zeros(2, channels, size, size)).shape == (2, classes)
    kinds = [type(part) for part in net.modules()]
    assert kinds.count(nn.Conv2d) == len(widths)
    assert kinds.count(nn.BatchNorm2d) == (len(widths) if batch_norm else 0)


def test_conv_net_is_conv_norm_relu_pool_in_each_block() -> None:
    net = ConvNet(1, 3, 8, widths=(2, 4)).double().eval()
    images = torch.rand(5, 1, 8, 8, dtype=torch.float64)
    functional = nn.functional
    hidden = images
    for index in (0, 4):
        convolution, norm = net.features[index], net.features[index + 1]
        hidden = functional.conv2d(hidden, convolution.weight, padding=1)
        hidden = (hidden - norm.running_mean.view(-1, 1, 1)) / (norm.running_var.view(-1, 1, 1) + norm.eps).sqrt()
        hidden = functional.max_pool2d(hidden.clamp(min=0), 2)
    expected = hidden.flatten(1) @ net.classifier.weight.T + net.classifier.bias
    torch.testing.assert_close(net(images), expected)


def test_normalized_normalises_each_channel_in_pixel_units() -> None:
    images = torch.rand(4, 2, 3, 3)
    mean, std = torch.tensor([0.3, 0.6]), torch.tensor([0.2, 0.5])
    net = Normalized(nn.Flatten(), mean=(0.3, 0.6), std=(0.2, 0.5))
    expected = ((images.permute(0, 2, 3, 1) - mean) / std).permute(0, 3, 1, 2).flatten(1)
    torch.testing.assert_close(net(images), expected)
    one_for_all = Normalized(nn.Flatten(), mean=(0.3,), std=(0.2,))
    torch.testing.assert_close(one_for_all(images), ((images - 0.3) / 0.2).flatten(1))


def test_normalized_saves_its_statistics_as_float32() -> None:
    state = Normalized(nn.Flatten(), mean=(0.3,), std=(0.2,)).state_dict()
    assert {name: tensor.dtype for name, tensor in state.items()} == {"mean": torch.float32, "std": torch.float32}


@pytest.mark.parametrize(
    "make",
    [
        lambda: LeNet5(image_size=15),
        lambda: LeNet5(channels=0),
        lambda: ConvNet(1, 10, 8, widths=()),
        lambda: ConvNet(1, 10, 8, widths=(1, 2, 3, 4)),
        lambda: ConvNet(1, 10, 8, widths=(1, 0)),
        lambda: ConvNet(1, True, 8),
        lambda: SlimResNet18(width=-1),
        lambda: resnet18(channels=0),
        lambda: mobilenet_v2(classes=0),
        lambda: mobilenet_v2(classes=True),
        lambda: Normalized(nn.Flatten(), (0.0, 0.0), (1.0,)),
        lambda: Normalized(nn.Flatten(), (0.0,), (0.0,)),
        lambda: Normalized(nn.Flatten(), (), ()),
    ],
)
def test_settings_out_of_range_are_typed_errors(make: object) -> None:
    assert callable(make)
    with pytest.raises(SettingError, match="remedy"):
        make()


def test_resnet18_is_the_slim_one_of_width_64() -> None:
    torch.manual_seed(0)
    wide = SlimResNet18(1, 4, width=64).eval()
    torch.manual_seed(0)
    net = resnet18(1, 4).eval()
    images = torch.rand(2, 1, 16, 16)
    assert torch.equal(net(images), wide(images))
    assert describe(net) == {"name": "resnet18", "settings": {"channels": 1, "classes": 4}}


def test_mobilenet_v2_is_torchvisions_with_another_head() -> None:
    torch.manual_seed(0)
    original, net = theirs.mobilenet_v2().double().eval(), mobilenet_v2(classes=7).double().eval()
    state = original.state_dict()
    head = {name: tensor[:7] if name.startswith("classifier") else tensor for name, tensor in state.items()}
    net.load_state_dict(head)
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(net(images), original(images)[:, :7])
    assert describe(net) == {"name": "mobilenet-v2", "settings": {"classes": 7}}
    again = build("mobilenet-v2", classes=7)
    assert [tensor.shape for tensor in again.state_dict().values()] == [tensor.shape for tensor in head.values()]
