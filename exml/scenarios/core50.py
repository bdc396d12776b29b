"""The paper's scenarios on CORe50 (Sec. 5, Table 1): videos of 50 objects, and a MobileNetV2 pretrained on ImageNet.

See :func:`exml.datasets.core50` for the frames, and :func:`exml.datasets.imagenet_weights` for the initial weights of
experts and student. Nothing is read before a scenario is loaded.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch

from exml.core.rng import make_generator
from exml.core.samples import Samples
from exml.datasets import core50, core50_lists, dataset_folder
from exml.datasets.imagenet import MEAN, STD
from exml.experts import ExpertTraining
from exml.scenarios.registry import Split, register
from exml.scenarios.scenario import Scenario
from exml.scenarios.splits import ExpertSetup, joint, new_classes, new_instances

MOBILENET = {"name": "mobilenet-v2", "settings": {"classes": 50}}
EPOCHS = {"joint": 40, "nc": 4, "ni": 10}
"""Appendix A.3."""
FIRST, LATER = 10, 5
"""Classes of the first experience of CORe50-NC, and of each later one."""
RUNS = 10
"""Runs of the published lists, each with an order of its own."""
IMAGES = "images 3x128x128; CORe50"


@register("core50-joint", description=f"1 experience of 50 classes, {IMAGES}")
def core50_joint(seed: int, split: Split) -> Scenario:
    """One experience with all fifty objects; the seed has no effect."""
    del seed
    return _scenario(dataset_folder(), "joint", 0, split)


@register("core50-nc", description=f"9 experiences of 5 or 10 classes (50 in all), {IMAGES}")
def core50_nc(seed: int, split: Split) -> Scenario:
    """Ten objects, then five more in each of eight experiences.

    If the published lists ``NC_inc`` are present, those of the run ``seed`` modulo 10; else the seed's own order.
    """
    return _scenario(dataset_folder(), "nc", seed, split)


@register("core50-ni", description=f"8 experiences of 50 classes, one test set, {IMAGES}")
def core50_ni(seed: int, split: Split) -> Scenario:
    """All fifty objects, in each experience as filmed in another session (appendix A.3; Table 1 says nine steps).

    If the published lists ``NI_inc`` are present, those of the run ``seed`` modulo 10; else the seed's own order of
    the sessions.
    """
    return _scenario(dataset_folder(), "ni", seed, split)


# A run and a source of real images load the same scenario independently.
@lru_cache(maxsize=1)
def _scenario(folder: Path, kind: Literal["joint", "nc", "ni"], seed: int, split: Split) -> Scenario:
    path = folder / "core50_128x128"
    wanted = f"{kind}_inc/run{seed % RUNS}"
    lists = next((name for name in core50_lists(path) if name.lower() == wanted), None)
    parts = core50(path, lists=lists)
    train, test, name = parts["train"], parts[split], f"core50-{kind}"
    training = ExpertTraining(epochs=EPOCHS[kind], batch_size=128, learning_rate=0.001)
    setup = ExpertSetup(MOBILENET, training, (MEAN, STD), pretrained=True)
    if kind == "joint":
        return joint(train, test, name=name, setup=setup)
    if kind == "ni":
        groups = _shuffled_sessions(train, seed) if lists is None else train.experiences
        return new_instances(train, test, groups=groups, name=name, setup=setup)
    if lists is None:
        sizes = [FIRST] + [LATER] * ((len(train.labels.unique()) - FIRST) // LATER)
        return new_classes(train, test, classes_each=sizes, seed=seed, name=name, setup=setup)
    batches = [train.labels[train.experiences == number].unique().tolist() for number in train.experiences.unique()]
    order = [label for batch in batches for label in batch]
    return new_classes(train, test, classes_each=[*map(len, batches)], order=order, name=name, setup=setup)


def _shuffled_sessions(train: Samples, seed: int) -> torch.Tensor:
    """The place of each frame's session in a random order."""
    sessions, place = train.experiences.unique(return_inverse=True)
    order = torch.randperm(len(sessions), generator=make_generator("cpu", seed, "session-order"))
    return order[place]
