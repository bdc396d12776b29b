"""Architectures of experts and students, and their names in cards. It imports only :mod:`exml.core`."""

from exml.models.architectures import CifarResNet, ConvNet, LeNet5, Normalized, SlimResNet18, mobilenet_v2, resnet18
from exml.models.classifier import grow_head
from exml.models.layout import channels_last
from exml.models.libraries import timm_model, torchvision_model
from exml.models.registry import bounded, build, describe, filled, names, register, settings, sketch
from exml.models.sequential import sequential

__all__ = [
    "CifarResNet",
    "ConvNet",
    "LeNet5",
    "Normalized",
    "SlimResNet18",
    "bounded",
    "build",
    "channels_last",
    "describe",
    "filled",
    "grow_head",
    "mobilenet_v2",
    "names",
    "register",
    "resnet18",
    "sequential",
    "settings",
    "sketch",
    "timm_model",
    "torchvision_model",
]
