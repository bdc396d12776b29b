"""Conformance of generators."""

from __future__ import annotations

import torch
from torch import nn

from exml.core.expert import Expert
from exml.protocols import Generator
from exml.testing.component import check_component, require


def tiny_expert(image_shape: tuple[int, int, int] = (1, 8, 8)) -> Expert:
    """A small untrained expert with batch-norm, a head of the full width 6, and the classes 1 and 4.

    >>> tiny_expert().classes
    (1, 4)
    """
    channels, height, width = image_shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(channels, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(4 * (height - 2) * (width - 2), 6),
        )
    return Expert(
        network.train(), classes=(1, 4), image_shape=image_shape, outputs=range(6), mean=(0.5,), std=(0.25,), task=2
    )


def check_generator(generator: Generator, image_shape: tuple[int, int, int] = (1, 8, 8), size: int = 7) -> None:
    """A generator is a component; it makes what was asked for, the same for a seed, and leaves the expert alone.

    Args:
        generator: the one to check, with few iterations.
        image_shape: ``(channels, height, width)`` that it can make.
        size: how many samples to ask for.

    Raises:
        AssertionError: naming the first property that does not hold.

    >>> from exml.generators import ProceduralImages
    >>> check_generator(ProceduralImages())
    """
    check_component(generator, "generator")
    expert = tiny_expert(image_shape)
    before = {name: tensor.clone() for name, tensor in expert.module.state_dict().items()}
    one, two, other = (generator(expert, size, seed) for seed in (1, 1, 2))
    require(len(one) == size, "must make as many samples as asked for", generator)
    require(one.images.shape[1:] == image_shape, "must make images of the expert's shape", generator)
    require(one.images.dtype == torch.float32, "must make float32 images", generator)
    require(not one.images.requires_grad, "must give images without a graph", generator)
    require(bool(one.images.isfinite().all()), "must make finite images", generator)
    known = bool(torch.isin(one.labels, expert.class_ids).all())
    require(known, "must label images with classes that the expert knows", generator)
    require(bool((one.tasks == 2).all()), "must mark samples with the expert's task", generator)
    same = torch.equal(one.images, two.images) and torch.equal(one.labels, two.labels)
    require(same, "must make the same samples for the same seed", generator)
    require(not torch.equal(one.images, other.images), "must make other samples for another seed", generator)
    after = expert.module.state_dict()
    require(all(torch.equal(after[name], was) for name, was in before.items()), "must not change the expert", generator)
    free = expert.module.training and all(weight.requires_grad for weight in expert.module.parameters())
    require(free, "must put back the expert's mode and gradient flags", generator)
    for part in expert.module.modules():
        hooks = {**vars(part)["_forward_pre_hooks"], **vars(part)["_forward_hooks"]}
        require(not hooks, "must leave no hook on the expert", generator)
    require(generator(expert, 1, 0).images.shape[0] == 1, "must be able to make a single sample", generator)
