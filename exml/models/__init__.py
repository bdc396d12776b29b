"""Architectures of experts and students, and their names in cards."""

from exml.models.conv_net import ConvNet
from exml.models.layout import channels_last
from exml.models.lenet5 import LeNet5
from exml.models.mobilenet_v2 import mobilenet_v2
from exml.models.normalized import Normalized
from exml.models.registry import build, describe, names, register, settings
from exml.models.resnet18 import resnet18
from exml.models.slim_resnet18 import SlimResNet18

__all__ = [
    "ConvNet",
    "LeNet5",
    "Normalized",
    "SlimResNet18",
    "build",
    "channels_last",
    "describe",
    "mobilenet_v2",
    "names",
    "register",
    "resnet18",
    "settings",
]
