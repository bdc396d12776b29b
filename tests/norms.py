"""Layers with running statistics that are not ``nn.BatchNorm2d``, each for a number of channels."""

from functools import partial

import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from exml.core.activation import batch_norm_layers


class Activated(nn.BatchNorm2d):
    """With an activation, like those of timm."""

    def forward(self, values):
        return super().forward(values).relu_()


class Functional(nn.BatchNorm2d):
    """Calls torch's function itself."""

    def forward(self, values):
        rows = (self.weight, self.bias, self.running_mean, self.running_var)
        return torch.batch_norm(values, *rows, self.training, self.momentum, self.eps, True) + 1


class Own(nn.Module):
    """A class of its own, which updates the statistics in training mode."""

    def __init__(self, channels):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))
        self.running_var = nn.Parameter(torch.ones(channels), requires_grad=False)

    def forward(self, values):
        if self.training:
            self.running_mean = self.running_mean.lerp(values.detach().mean((0, 2, 3)), 0.1)
        mean, var = (row.view(-1, 1, 1) for row in (self.running_mean, self.running_var))
        return (values - mean) / (var + 1e-5).sqrt()


class Overwriting(nn.BatchNorm2d):
    """Normalizes its input in place."""

    def forward(self, values):
        scale = self.weight / (self.running_var + self.eps).sqrt()
        return values.sub_(self.running_mean.view(-1, 1, 1)).mul_(scale.view(-1, 1, 1))


NORMS = {
    "activated": Activated,
    "functional": Functional,
    "sync": nn.SyncBatchNorm,
    "frozen": FrozenBatchNorm2d,
    "instance": partial(nn.InstanceNorm2d, affine=True, track_running_stats=True),
    "own": Own,
    "overwriting": Overwriting,
    "without bias": partial(nn.BatchNorm2d, bias=False),
}


def network(norm, channels=3, classes=4):
    """Its layer with running statistics is ``1``."""
    layers = nn.Conv2d(channels, 4, 3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(16, classes))


def trained(module):
    """The module in evaluation mode, with arbitrary weights and statistics in its layers."""
    for _, part in batch_norm_layers(module):
        part.running_mean.normal_(0, 0.1)
        part.running_var.uniform_(0.5, 1.5)
        if getattr(part, "weight", None) is not None:
            part.weight.data.uniform_(0.5, 1.5)
        if getattr(part, "bias", None) is not None:
            part.bias.data.normal_(0, 0.1)
    return module.eval()
