"""The paper's scenarios on CIFAR-10 (Sec. 5, Table 1): photographs, and a slim ResNet-18.

See :func:`exml.datasets.cifar10` for the files. Nothing is read before a scenario is loaded.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal

from exml.datasets import cifar10, dataset_folder
from exml.experts import ExpertTraining
from exml.scenarios.registry import Split, register
from exml.scenarios.scenario import Scenario
from exml.scenarios.splits import ExpertSetup, joint, multi_task, new_classes

SETUP = ExpertSetup(
    {"name": "slim-resnet18", "settings": {"channels": 3, "classes": 10, "width": 20}},
    ExpertTraining(epochs=100, learning_rate=0.01),
)
"""Appendix A.2."""


@register("cifar10-joint", description="1 experience of 10 classes, images 3x32x32; CIFAR-10")
def cifar10_joint(seed: int, split: Split) -> Scenario:
    """One experience with all ten classes; the seed has no effect."""
    del seed
    return _scenario(dataset_folder(), "joint", 0, split)


@register("cifar10-nc", description="5 experiences of 2 classes (10 in all), images 3x32x32; CIFAR-10")
def cifar10_nc(seed: int, split: Split) -> Scenario:
    """Five experiences with two classes each (appendix A.2; Table 1 says ten steps)."""
    return _scenario(dataset_folder(), "nc", seed, split)


@register("cifar10-mt", description="5 experiences of 2 classes (10 in all), task labels, images 3x32x32; CIFAR-10")
def cifar10_mt(seed: int, split: Split) -> Scenario:
    """Five tasks with two classes each, and task labels.

    One head of ten units serves all tasks. The two units of a task are its head: with the task label, as in
    :func:`exml.runs.evaluation.within_tasks` and :class:`exml.combiners.MultiTask`, the other units do not count.
    """
    return _scenario(dataset_folder(), "mt", seed, split)


# A run and a source of real images load the same scenario independently.
@lru_cache(maxsize=2)
def _scenario(folder: Path, kind: Literal["joint", "nc", "mt"], seed: int, split: Split) -> Scenario:
    parts = cifar10(folder)
    train, test, name = parts["train"], parts[split], f"cifar10-{kind}"
    if kind == "joint":
        return joint(train, test, name=name, setup=SETUP)
    deal = new_classes if kind == "nc" else multi_task
    return deal(train, test, experiences=5, seed=seed, name=name, setup=SETUP)
