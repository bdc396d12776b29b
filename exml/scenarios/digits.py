"""Scenarios on scikit-learn's handwritten digits: 1,797 grayscale images of 8x8 pixels that ship with the library."""

from __future__ import annotations

from functools import lru_cache

import torch
from einops import rearrange

from exml.core.rng import derive_seed
from exml.core.samples import Samples
from exml.experts import ExpertTraining
from exml.scenarios.registry import Split, register
from exml.scenarios.scenario import Scenario
from exml.scenarios.splits import ExpertSetup, joint, multi_task, new_classes, new_instances

TEST, VALIDATION = 50, 30
"""Images of each class in the test set and in the validation set; the rest, about 100, are for training."""
SETUP = ExpertSetup(training=ExpertTraining(epochs=20, learning_rate=0.01))
"""The training of appendix A.1 for MNIST-NC."""


@lru_cache(maxsize=1)
def digit_images() -> dict[str, Samples]:
    """The parts ``train`` (997 images), ``validation`` (300) and ``test`` (500), in pixel units.

    They are always the same. The classes of validation and test are equally frequent.

    >>> {part: len(samples) for part, samples in digit_images().items()}
    {'train': 997, 'validation': 300, 'test': 500}
    """
    from sklearn.datasets import load_digits  # here, because scikit-learn takes seconds to import

    data, target = load_digits(return_X_y=True)
    images = rearrange(torch.from_numpy(data).float() / 16, "n (height width) -> n 1 height width", height=8)
    labels = torch.from_numpy(target).long()
    parts: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for label in range(10):
        own: list[int] = (labels == label).nonzero().flatten().tolist()
        # Ordered by a hash, because the numbers of a generator may change with the version of a library.
        own.sort(key=lambda index: derive_seed(0, "digits", index))
        parts["test"] += own[:TEST]
        parts["validation"] += own[TEST : TEST + VALIDATION]
        parts["train"] += own[TEST + VALIDATION :]
    return {part: Samples.of(images[sorted(index)], labels[sorted(index)]) for part, index in parts.items()}


@register("digits-joint")
def digits_joint(seed: int, split: Split) -> Scenario:
    """One experience with all ten digits; the seed has no effect."""
    del seed
    parts = digit_images()
    return joint(parts["train"], parts[split], name="digits-joint", setup=SETUP)


@register("digits-nc")
def digits_nc(seed: int, split: Split) -> Scenario:
    """Five experiences with two digits each."""
    parts = digit_images()
    return new_classes(parts["train"], parts[split], experiences=5, seed=seed, name="digits-nc", setup=SETUP)


@register("digits-mt")
def digits_mt(seed: int, split: Split) -> Scenario:
    """Five tasks with two digits each, and task labels."""
    parts = digit_images()
    return multi_task(parts["train"], parts[split], experiences=5, seed=seed, name="digits-mt", setup=SETUP)


@register("digits-ni")
def digits_ni(seed: int, split: Split) -> Scenario:
    """Five experiences with all ten digits, about 200 images each, and one test set."""
    parts = digit_images()
    return new_instances(parts["train"], parts[split], experiences=5, seed=seed, name="digits-ni", setup=SETUP)
