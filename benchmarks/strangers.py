"""Students of other people's experts: unlike architectures, heads, domains and classes, by the default strategy.

    EXML_DATA=... uv run python benchmarks/strangers.py --seeds 0,1   # the same command resumes after a kill

Six streams are learned in the orders of their experts, on one thread, and evaluated on the complete test sets, next to
the experts, their ensembles and the target. The experts of *overlapping* are trained here; the others are files in
``EXML_DATA/experts`` with a small card each, for which a seed is that of the student. Rows are merged into
``benchmarks/results/strangers.json``. Settings were chosen on the last 10,000 training images, for which rows are
printed and not kept::

    uv run python benchmarks/strangers.py --streams domains --split validation --training margin=0 sampling=uniform
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any

import torch
from streams import Case, changed, kept, measured, options, prepare
from torch import nn
from torchvision.datasets import MNIST, FashionMNIST
from torchvision.transforms.functional import resize

import exml
from exml import Expert, ExpertProfile, ExpertStream, Samples
from exml.baselines import EnsembleAverage
from exml.core.files import write_json
from exml.datasets import cifar10, dataset_folder
from exml.experts import adapted, train_expert
from exml.experts.training import ExpertTraining
from exml.models import ConvNet, LeNet5, Normalized, SlimResNet18
from exml.recipes import recipe
from exml.runs.evaluation import accuracy
from exml.scenarios import Experience, Scenario, Split

RESULT = "strangers.json"
SHAPE, MEAN, STD = (1, 28, 28), (0.1307,), (0.3081,)
COLOR_SHAPE = (3, 32, 32)
COLOR_MEAN, COLOR_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DIGITS = list(range(10))


def _small(padding: int, inputs: int) -> dict[str, Any]:
    layers = [{"conv2d": [1, 16, 4, 2, padding]}, "relu", {"conv2d": [16, 32, 4, 2, padding]}, "relu", "flatten"]
    layers += [{"linear": [inputs, 100]}, "relu", {"linear": [100, 10]}]
    return {"name": "sequential", "settings": {"layers": layers}}


_LENET = {
    "conv1": {"conv2d": {"in_channels": 1, "out_channels": 32, "kernel_size": 3, "padding": 1}},
    "relu1": "relu",
    "pool1": {"max_pool2d": 2},
    "conv2": {"conv2d": {"in_channels": 32, "out_channels": 64, "kernel_size": 3, "padding": 1}},
    "relu2": "relu",
    "pool2": {"max_pool2d": 2},
    "flatten": "flatten",
    "linear1": {"linear": [3136, 200]},
    "relu3": "relu",
    "linear2": {"linear": [200, 10]},
}
CARDS: dict[str, dict[str, Any]] = {
    "convexadv_mnist": {"architecture": _small(1, 1568)},
    "abcrown_mnist_conv_small_nat": {"architecture": _small(0, 800), "mean": MEAN, "std": STD},
    "mnist_lenet5_advtrained": {"architecture": {"name": "sequential", "settings": {"layers": _LENET}}},
    "convexadv_fashion_mnist": {"architecture": _small(1, 1568)},
    **{
        name: {"image_shape": COLOR_SHAPE, "mean": COLOR_MEAN, "std": COLOR_STD}
        for name in ("resnet20-12fca82f", "resnet32-d509ac18")
    },
}
STREAMS = {
    "same classes": ("convexadv_mnist", "abcrown_mnist_conv_small_nat", "mnist_lenet5_advtrained"),
    "domains": ("convexadv_mnist", "convexadv_fashion_mnist"),
    "overlapping": ("perceptron", "conv-net", "lenet5"),
    "photographs": ("resnet20-12fca82f", "resnet32-d509ac18"),
    "one ResNet": ("resnet20-12fca82f",),
    "gray and color": ("convexadv_mnist", "resnet20-12fca82f"),
}
CIFAR10 = ("photographs", "one ResNet")
COLOR = (*CIFAR10, "gray and color")
DISJOINT = ("domains", "gray and color")


class Perceptron(nn.Sequential):
    """Two hidden layers."""

    def __init__(self, classes: int) -> None:
        layers = (nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, classes))
        super().__init__(nn.Flatten(), *layers)


OVERLAPPING: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "perceptron": (lambda: Perceptron(10), (0, 1, 2, 3, 4)),
    "conv-net": (lambda: ConvNet(1, 10, 28), (3, 4, 5, 6, 7)),
    "lenet5": (lambda: LeNet5(1, 4, 28), (6, 7, 8, 9)),
}
"""Each with its own initial weights; the last has a head of its own classes only."""


def images(dataset: type[MNIST], *, train: bool, first: int = 0) -> Samples:
    """A split of a dataset in the layout of torchvision."""
    data = dataset(str(dataset_folder()), train=train)
    return Samples.of(data.data[:, None], data.targets + first)


def experts(stream: str, seed: int, work: Path) -> list[Expert]:
    """The experts of a stream in their first order."""
    if stream != "overlapping":
        firsts = [10 * place if stream in DISJOINT else 0 for place in range(len(STREAMS[stream]))]
        found = [_stranger(name, work, first) for name, first in zip(STREAMS[stream], firsts, strict=True)]
        return [adapted(expert, COLOR_SHAPE if stream in COLOR else SHAPE) for expert in found]
    samples, made = images(MNIST, train=True)[:50_000], list[Expert]()
    training = ExpertTraining(epochs=3, batch_size=64, learning_rate=0.03)
    for number, (name, (build, classes)) in enumerate(OVERLAPPING.items()):
        torch.manual_seed(100 * seed + number)
        path, module = work / f"{name}-{seed}.pt", build()
        own = samples[torch.isin(samples.labels, torch.tensor(classes))]
        if not path.exists():
            train_expert(module, own, training=training, seed=10 * seed + number, mean=MEAN, std=STD)
            torch.save(module.state_dict(), path)
        module.load_state_dict(torch.load(path, weights_only=True))
        outputs = classes if name == "lenet5" else DIGITS
        made.append(Expert(module.eval(), classes, SHAPE, outputs=outputs, mean=MEAN, std=STD, name=name))
    return made


def _stranger(name: str, work: Path, first: int) -> Expert:
    """The expert in a file, whose ten classes have ids from ``first``."""
    path = work / f"{name}.safetensors"
    if not path.exists():
        shutil.copyfile(dataset_folder() / "experts" / path.name, path)
    classes = list(range(first, first + 10))
    write_json(path.with_suffix(".json"), {"image_shape": SHAPE, **CARDS[name], "classes": classes})
    return exml.load(path)


def held_out(stream: str, split: Split) -> Samples:
    """All test or validation images of the domains of a stream."""
    if stream in CIFAR10:
        return cifar10()[split]
    domains = [(MNIST, 0), (FashionMNIST, 10)][: 2 if stream == "domains" else 1]
    last = slice(50_000 if split == "validation" else 0, None)
    gray = Samples.concat([images(data, train=split == "validation", first=first)[last] for data, first in domains])
    if stream not in COLOR:
        return gray
    photos, resized = cifar10()[split], resize(gray.images, list(COLOR_SHAPE[1:]), antialias=True)
    return Samples.concat(
        [Samples.of(resized.expand(-1, 3, -1, -1), gray.labels), Samples.of(photos.images, photos.labels + 10)]
    )


def scenario(stream: str, found: list[Expert], split: Split) -> Scenario:
    """The test sets: one per expert if their classes differ, so that it is known which expert is responsible."""
    test, classes = held_out(stream, split), 20 if stream in DISJOINT else 10
    disjoint = sum(len(expert.classes) for expert in found) == classes
    parts: list[Experience] = []
    for index, expert in enumerate(found, 1):
        own = test[torch.isin(test.labels, expert.class_ids)] if disjoint else test
        tested = Samples.of(own.images, own.labels, experience=index) if disjoint else test
        parts.append(Experience(index, expert.classes, None, tested, tested))
    return Scenario(stream, parts, classes, found[0].image_shape, MEAN, STD, {}, ExpertTraining())


@cache
def alone(stream: str, seed: int, work: Path, split: Split) -> list[float]:
    """The accuracy of each expert on the images of its classes, in percent."""
    test, rows = held_out(stream, split), list[float]()
    for expert in experts(stream, seed, work):
        own = test[torch.isin(test.labels, expert.class_ids)]
        predict = EnsembleAverage(units="known")(ExpertStream.from_experts([expert]), 20)
        rows.append(round(100 * accuracy(predict, own), 2))
    return rows


def cases(stream: str, seed: int, orders: int | None, work: Path, split: Split) -> Iterator[Case]:
    """A student for each order of the experts."""
    for order in [*permutations(range(len(STREAMS[stream])))][:orders]:
        first = experts(stream, seed, work)
        found = [first[place] for place in order]
        where = scenario(stream, found, split)
        torch.manual_seed(seed)
        student: nn.Module = ConvNet(where.image_shape[0], where.classes, where.image_shape[1])
        if stream in COLOR:
            inner = SlimResNet18() if stream in CIFAR10 else student
            student = Normalized(inner, COLOR_MEAN, COLOR_STD)
        strategy = recipe("exml", ExpertProfile.from_experts(first), student=student).build()
        about = {
            "order": " ".join(map(str, order)),
            "experts": list(STREAMS[stream]),
            "alone": alone(stream, seed, work, split),
        }
        key = f"seed {seed}, order {about['order']}"
        yield Case(stream, key, where, ExpertStream.from_experts(found), student, strategy, seed, about=about)


def main() -> None:
    """Measure the rows that are missing."""
    parser = options(__doc__, "runs/strangers")
    parser.add_argument("--orders", type=int, help="number of orders of each stream; by default all")
    parser.add_argument("--streams", nargs="+", default=list(STREAMS), choices=list(STREAMS))
    arguments = parser.parse_args()
    prepare(arguments.work)
    for stream in arguments.streams:
        for seed in arguments.seeds:
            for case in cases(stream, seed, arguments.orders, arguments.work, arguments.split):
                measured([changed(case, arguments.training)], kept(arguments, RESULT), arguments.work / arguments.split)


if __name__ == "__main__":
    main()
