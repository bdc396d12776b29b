"""The paper's scenarios (Sec. 5, Table 1) on MNIST, CIFAR-10 and CORe50, with the experts of appendix A.

Those of MNIST are also available on Fashion-MNIST, whose images and experts have the same shapes.

Nothing is read before a scenario is loaded. :mod:`exml.datasets` describes the files.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import chain
from pathlib import Path

import attrs
import torch
from torch import nn

from exml.core.rng import make_generator
from exml.core.samples import Samples
from exml.datasets import cifar10, core50, core50_lists, dataset_folder, fashion_mnist, mnist
from exml.datasets.imagenet import MEAN, STD
from exml.experts import ExpertTraining
from exml.scenarios.registry import Split, register
from exml.scenarios.scenario import Scenario
from exml.scenarios.splits import ExpertSetup, joint, multi_task, new_classes, new_instances

PAPER_SCENARIOS = {
    "mnist-joint": "1 experience of 10 classes, images 1x32x32; MNIST",
    "mnist-nc": "5 experiences of 2 classes (10 in all), images 1x32x32; MNIST",
    "cifar10-joint": "1 experience of 10 classes, images 3x32x32; CIFAR-10",
    "cifar10-nc": "5 experiences of 2 classes (10 in all), images 3x32x32; CIFAR-10",
    "cifar10-mt": "5 experiences of 2 classes (10 in all), task labels, images 3x32x32; CIFAR-10",
    "core50-joint": "1 experience of 50 classes, images 3x128x128; CORe50",
    "core50-nc": "9 experiences of 5 or 10 classes (50 in all), images 3x128x128; CORe50",
    "core50-ni": "8 experiences of 50 classes, one test set, images 3x128x128; CORe50",
}
"""CIFAR10-NC and CORe50-NI have 5 and 8 experiences (appendices A.2, A.3); Table 1 says 10 and 9."""
FASHION_SCENARIOS = {
    name.replace("mnist", "fashion"): PAPER_SCENARIOS[name].replace("MNIST", "Fashion-MNIST")
    for name in ("mnist-joint", "mnist-nc")
}
"""Those of MNIST on Fashion-MNIST."""
PADDING = 2
"""Black pixels on each side: LeNet-5 takes 32x32, and MNIST has 28x28."""
LENET5 = {"name": "lenet5", "settings": {"channels": 1, "classes": 10, "image_size": 28 + 2 * PADDING}}
RESNET18 = {"name": "slim-resnet18", "settings": {"channels": 3, "classes": 10, "width": 20}}
MOBILENET = {"name": "mobilenet-v2", "settings": {"classes": 50}}
MNIST_EPOCHS = {"joint": 100, "nc": 20}
CORE50_EPOCHS = {"joint": 40, "nc": 4, "ni": 10}
FIRST, LATER = 10, 5
"""Classes of the first experience of CORe50-NC, and of each later one."""
RUNS = 10
"""The published lists of CORe50 are ten runs, each with an order of its own. A seed selects run ``seed`` modulo 10."""


def mnist_images() -> dict[str, Samples]:
    """The parts of :func:`exml.datasets.mnist`, which documents the errors, padded to 1x32x32 uint8."""
    return {part: _padded(samples) for part, samples in mnist().items()}


# A run and a source of real images load the same scenario independently.
@lru_cache(maxsize=1)
def _load(name: str, folder: Path, seed: int, split: Split) -> Scenario:
    dataset, _, kind = name.partition("-")
    if dataset == "core50":
        return _core50(name, kind, folder / "core50_128x128", seed, split)
    if dataset in ("mnist", "fashion"):
        parts = mnist(folder) if dataset == "mnist" else fashion_mnist(folder)
        train, test = _padded(parts["train"]), _padded(parts[split])
        setup = ExpertSetup(LENET5, ExpertTraining(epochs=MNIST_EPOCHS[kind], learning_rate=0.01))
    else:
        parts = cifar10(folder)
        train, test = parts["train"], parts[split]
        setup = ExpertSetup(RESNET18, ExpertTraining(epochs=100, learning_rate=0.01))
    if kind == "joint":
        return joint(train, test, name=name, setup=setup)
    deal = multi_task if kind == "mt" else new_classes
    return deal(train, test, experiences=5, seed=seed, name=name, setup=setup)


def _core50(name: str, kind: str, path: Path, seed: int, split: Split) -> Scenario:
    wanted = f"{kind}_inc/run{seed % RUNS}"
    lists = next((found for found in core50_lists(path) if found.lower() == wanted), None)
    parts = core50(path, lists=lists)
    train, test = parts["train"], parts[split]
    training = ExpertTraining(epochs=CORE50_EPOCHS[kind], batch_size=128, learning_rate=0.001)
    setup = ExpertSetup(MOBILENET, training, (MEAN, STD), pretrained=True)
    if kind == "joint":
        return joint(train, test, name=name, setup=setup)
    if kind == "ni":
        groups = train.experiences
        if lists is None:  # the sessions in a random order
            sessions, place = groups.unique(return_inverse=True)
            groups = torch.randperm(len(sessions), generator=make_generator("cpu", seed, "session-order"))[place]
        return new_instances(train, test, groups=groups, name=name, setup=setup)
    if lists is None:
        sizes = [FIRST] + [LATER] * ((len(train.labels.unique()) - FIRST) // LATER)
        return new_classes(train, test, classes_each=sizes, seed=seed, name=name, setup=setup)
    batches = [train.labels[train.experiences == number].unique().tolist() for number in train.experiences.unique()]
    return new_classes(train, test, classes_each=[*map(len, batches)], order=[*chain(*batches)], name=name, setup=setup)


def _padded(samples: Samples) -> Samples:
    return attrs.evolve(samples, images=nn.functional.pad(samples.images, (PADDING,) * 4))


def _factory(name: str) -> Callable[[int, Split], Scenario]:
    def make(seed: int, split: Split) -> Scenario:
        return _load(name, dataset_folder(), 0 if name.endswith("-joint") else seed, split)

    return make


for _name, _description in {**PAPER_SCENARIOS, **FASHION_SCENARIOS}.items():
    register(_name, description=_description)(_factory(_name))
