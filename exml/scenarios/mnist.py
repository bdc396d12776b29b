"""The paper's scenarios on MNIST (Sec. 5, Table 1): real digits, 32x32 as LeNet-5 takes them.

See :func:`exml.datasets.mnist` for where the images come from. Nothing is read before one of these scenarios is loaded.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import attrs
from torch import nn

from exml.core.samples import Samples
from exml.datasets import dataset_folder, mnist
from exml.experts import ExpertTraining
from exml.scenarios.registry import Split, register
from exml.scenarios.scenario import Scenario
from exml.scenarios.splits import joint, new_classes

PADDING = 2
"""Black pixels on each side, from 28 to 32."""
LENET5 = {"name": "lenet5", "settings": {"channels": 1, "classes": 10, "image_size": 28 + 2 * PADDING}}


def mnist_images() -> dict[str, Samples]:
    """The parts of :func:`exml.datasets.mnist`, 1x32x32 uint8: with two black pixels more on each side.

    Raises:
        DataError: when there is no MNIST, and none can be downloaded.
    """
    return {part: _padded(samples) for part, samples in mnist().items()}


@register("mnist-joint", description="1 experience of 10 classes, images 1x32x32; MNIST")
def mnist_joint(seed: int, split: Split) -> Scenario:
    """One experience with all ten digits; the seed has nothing to choose."""
    del seed
    return _joint(dataset_folder(), split)


@register("mnist-nc", description="5 experiences of 2 classes (10 in all), images 1x32x32; MNIST")
def mnist_nc(seed: int, split: Split) -> Scenario:
    """Five experiences with two digits each."""
    return _new_classes(dataset_folder(), seed, split)


# A recipe, a run and a source of real images load the same scenario each by itself.
@lru_cache(maxsize=1)
def _joint(folder: Path, split: Split) -> Scenario:
    parts = mnist(folder)
    train, test = _padded(parts["train"]), _padded(parts[split])
    training = ExpertTraining(epochs=100, learning_rate=0.01)  # appendix A.1
    return joint(train, test, name="mnist-joint", architecture=LENET5, training=training)


@lru_cache(maxsize=2)
def _new_classes(folder: Path, seed: int, split: Split) -> Scenario:
    parts = mnist(folder)
    train, test = _padded(parts["train"]), _padded(parts[split])
    training = ExpertTraining(epochs=20, learning_rate=0.01)  # appendix A.1
    return new_classes(train, test, experiences=5, seed=seed, name="mnist-nc", architecture=LENET5, training=training)


def _padded(samples: Samples) -> Samples:
    return attrs.evolve(samples, images=nn.functional.pad(samples.images, (PADDING,) * 4))
