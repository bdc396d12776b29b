"""The paper's scenarios on MNIST (Sec. 5, Table 1): digits of 32x32 pixels, and a LeNet-5.

See :func:`exml.datasets.mnist` for the files. Nothing is read before a scenario is loaded.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal

import attrs
from torch import nn

from exml.core.samples import Samples
from exml.datasets import dataset_folder, mnist
from exml.experts import ExpertTraining
from exml.scenarios.registry import Split, register
from exml.scenarios.scenario import Scenario
from exml.scenarios.splits import ExpertSetup, joint, new_classes

PADDING = 2
"""Black pixels on each side: LeNet-5 takes 32x32, and MNIST has 28x28."""
LENET5 = {"name": "lenet5", "settings": {"channels": 1, "classes": 10, "image_size": 28 + 2 * PADDING}}
EPOCHS = {"joint": 100, "nc": 20}
"""Appendix A.1."""


def mnist_images() -> dict[str, Samples]:
    """The parts of :func:`exml.datasets.mnist`, padded to 1x32x32 uint8.

    Raises:
        DataError: when the files are missing and cannot be downloaded.
    """
    return {part: _padded(samples) for part, samples in mnist().items()}


@register("mnist-joint", description="1 experience of 10 classes, images 1x32x32; MNIST")
def mnist_joint(seed: int, split: Split) -> Scenario:
    """One experience with all ten digits; the seed has no effect."""
    del seed
    return _scenario(dataset_folder(), "joint", 0, split)


@register("mnist-nc", description="5 experiences of 2 classes (10 in all), images 1x32x32; MNIST")
def mnist_nc(seed: int, split: Split) -> Scenario:
    """Five experiences with two digits each."""
    return _scenario(dataset_folder(), "nc", seed, split)


# A run and a source of real images load the same scenario independently.
@lru_cache(maxsize=2)
def _scenario(folder: Path, kind: Literal["joint", "nc"], seed: int, split: Split) -> Scenario:
    parts = mnist(folder)
    train, test, name = _padded(parts["train"]), _padded(parts[split]), f"mnist-{kind}"
    setup = ExpertSetup(LENET5, ExpertTraining(epochs=EPOCHS[kind], learning_rate=0.01))
    if kind == "joint":
        return joint(train, test, name=name, setup=setup)
    return new_classes(train, test, experiences=5, seed=seed, name=name, setup=setup)


def _padded(samples: Samples) -> Samples:
    return attrs.evolve(samples, images=nn.functional.pad(samples.images, (PADDING,) * 4))
