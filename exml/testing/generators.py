"""Conformance of generators."""

from __future__ import annotations

import torch
from torch import nn

from exml.core.expert import Expert
from exml.protocols import Generator
from exml.testing.component import check_component, requirement


def tiny_expert(image_shape: tuple[int, int, int] = (1, 8, 8)) -> Expert:
    """A small untrained expert with batch norm, a head of the full width 6, and the classes 1 and 4.

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
    """Check that a generator is a component, makes the requested samples from a seed, and restores the expert.

    Args:
        generator: with few iterations.
        image_shape: ``(channels, height, width)`` that it supports.
        size: number of samples.

    Raises:
        AssertionError: names the first property that does not hold, and the remedy.

    >>> from exml.generators import ProceduralImages
    >>> check_generator(ProceduralImages())
    """
    check_component(generator, "generator")
    must = requirement(generator)
    expert = tiny_expert(image_shape)
    before = {name: tensor.clone() for name, tensor in expert.module.state_dict().items()}
    one, two, other = (generator(expert, size, seed) for seed in (1, 1, 2))
    must(len(one) == size, "make the requested number of samples: return size of them")
    must(one.images.shape[1:] == image_shape, "make images of the expert's shape: use expert.image_shape")
    must(one.images.dtype == torch.float32, "make float32 images: convert them")
    must(not one.images.requires_grad, "return images without a graph: detach them")
    must(bool(one.images.isfinite().all()), "make finite images: raise NonFiniteError otherwise")
    known = bool(torch.isin(one.labels, expert.class_ids).all())
    must(known, "label images with classes of the expert: use expert.labels or expert.class_ids")
    must(bool((one.tasks == 2).all()), "set the expert's task: pass task=expert.task to Samples.of")
    same = torch.equal(one.images, two.images) and torch.equal(one.labels, two.labels)
    must(same, "make the same samples for the same seed: draw from exml.core.rng.make_generator")
    must(
        not torch.equal(one.images, other.images),
        "make other samples for another seed: derive every draw from the seed",
    )
    after = expert.module.state_dict()
    same = all(torch.equal(after[name], was) for name, was in before.items())
    must(same, "not change the expert: run it inside exml.engine.frozen")
    free = expert.module.training and all(weight.requires_grad for weight in expert.module.parameters())
    must(free, "restore the expert's mode and gradient flags: run it inside exml.engine.frozen")
    for part in expert.module.modules():
        hooks = {**vars(part)["_forward_pre_hooks"], **vars(part)["_forward_hooks"]}
        must(not hooks, "leave no hook on the expert: remove it in a finally block")
    must(len(generator(expert, 1, 0)) == 1, "be able to make a single sample: support size=1")
