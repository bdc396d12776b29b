"""Tiny parts that several tests share."""

import torch
from torch import nn

import exml
from exml.augmentation import Augmentation
from exml.combiners import ByClass
from exml.generators import ModelInversion
from exml.losses import Distillation
from exml.normalizers import CenterLogits
from exml.priors import BatchNormStatistics, GaussianBlur, L2Norm, Sum

SHAPE = (1, 6, 6)


def network(classes=6, seed=0, width=4, dropout=0.0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, width, 3),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Flatten(),
        nn.Linear(16 * width, classes),
    )


def experts(count=3, **changes):
    """Experts with two classes each and heads of the full width."""
    return [
        exml.Expert(
            network(2 * count, seed=10 + i),
            classes=(2 * i, 2 * i + 1),
            image_shape=SHAPE,
            outputs=range(2 * count),
            mean=(0.3,),
            std=(0.5,),
            name=f"e{i}",
            **changes,
        )
        for i in range(count)
    ]


def strategy(**changes):
    parts = {
        "generator": ModelInversion(iterations=6, learning_rate=0.1, batch_size=5),
        "combiner": ByClass(),
        "buffer": exml.buffers.Cumulative(12),
        "loss": Distillation(cross_entropy=1.0),
        "training": exml.engine.Training(iterations=7, batch_size=4, learning_rate=0.05, momentum=0.9),
        "normalizer": CenterLogits(),
        "prior": Sum((L2Norm(1e-3), GaussianBlur(0.01), BatchNormStatistics(0.1))),
        "augmentation": Augmentation(shift=1),
    }
    return exml.Strategy(**{**parts, **changes})


def weights(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


PAPER_SHAPES = {"mnist": (1, 32, 32), "cifar10": (3, 32, 32), "core50": (3, 128, 128)}
"""Image shapes by which the paper's recipes find their rows."""


def profile(*modules, image_shape=(1, 8, 8), classes=10, tasks=False):
    """A stream of experts on two classes each, with heads of the full width; five without batch norm by default."""
    return exml.ExpertProfile.from_experts(
        exml.Expert(
            module,
            (2 * number % classes, (2 * number + 1) % classes),
            image_shape,
            outputs=range(classes),
            mean=(0.3,) * image_shape[0],
            std=(0.4,) * image_shape[0],
            task=number if tasks else None,
        )
        for number, module in enumerate(modules or [nn.Flatten()] * 5)
    )
