"""Scenarios on scikit-learn's handwritten digits: 1,797 grayscale images of 8x8 pixels that ship with the library.

``digits-joint`` has one experience with all digits; ``digits-nc`` and ``digits-mt`` have five with two digits each, the
latter with task labels; ``digits-ni`` has five with all digits, about 200 images each, and one test set.
"""

from __future__ import annotations

from collections.abc import Callable
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
"""The training of MNIST-NC in appendix A.1."""


@lru_cache(maxsize=1)
def digit_images() -> dict[str, Samples]:
    """The parts ``train`` (997 images), ``validation`` (300) and ``test`` (500), in pixel units.

    They are always the same. The classes of validation and test are equally frequent.

    >>> from exml.scenarios import digit_images
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


def _factory(kind: str) -> Callable[[int, Split], Scenario]:
    def make(seed: int, split: Split) -> Scenario:
        parts, name = digit_images(), f"digits-{kind}"
        if kind == "joint":
            return joint(parts["train"], parts[split], name=name, setup=SETUP)
        deal = {"nc": new_classes, "mt": multi_task, "ni": new_instances}[kind]
        return deal(parts["train"], parts[split], experiences=5, seed=seed, name=name, setup=SETUP)

    return make


for _kind in ("joint", "nc", "mt", "ni"):
    register(f"digits-{_kind}")(_factory(_kind))
