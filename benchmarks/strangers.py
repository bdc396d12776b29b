"""Students of other people's experts: unlike architectures, heads, domains and classes, by the default strategy.

    EXML_DATA=... uv run python benchmarks/strangers.py --work runs/strangers   # the same command resumes after a kill

Four streams are learned in the orders of their experts, on one thread, and compared on the complete test sets with the
experts themselves: each alone, ensembles, and the mean of their logits on the common scale, which is the target of the
student except for *photographs*. The experts of *overlapping* are trained here; the others are files in
``EXML_DATA/experts`` with a small card each. Settings were chosen on the last 10,000 training images. The result goes
to ``benchmarks/results/strangers.json``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from statistics import median
from typing import Any

import attrs
import torch
from pages import RESULTS, commit
from torch import Tensor, nn
from torchvision.datasets import MNIST, FashionMNIST

import exml
from exml import Expert, ExpertProfile, ExpertStream, Samples
from exml.baselines import EnsembleAverage, MinEntropy
from exml.calibrations import CommonScale
from exml.core.files import write_json
from exml.datasets import cifar10, dataset_folder
from exml.engine import keep_freed_memory
from exml.experts import train_expert
from exml.experts.training import ExpertTraining
from exml.models import ConvNet, LeNet5, Normalized, SlimResNet18
from exml.protocols import Predictor
from exml.runs.environment import environment
from exml.runs.evaluation import accuracy, student_predictor

SHAPE, MEAN, STD = (1, 28, 28), (0.1307,), (0.3081,)
COLOR_MEAN, COLOR_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DIGITS, CLOTHES = list(range(10)), list(range(10, 20))


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
    "convexadv_mnist": {"architecture": _small(1, 1568), "classes": DIGITS},
    "abcrown_mnist_conv_small_nat": {"architecture": _small(0, 800), "classes": DIGITS, "mean": MEAN, "std": STD},
    "mnist_lenet5_advtrained": {"architecture": {"name": "sequential", "settings": {"layers": _LENET}}},
    "convexadv_fashion_mnist": {"architecture": _small(1, 1568), "classes": CLOTHES},
    **{
        name: {"image_shape": (3, 32, 32), "mean": COLOR_MEAN, "std": COLOR_STD}
        for name in ("resnet20-12fca82f", "resnet32-d509ac18")
    },
}
STREAMS = {
    "same classes": ("convexadv_mnist", "abcrown_mnist_conv_small_nat", "mnist_lenet5_advtrained"),
    "domains": ("convexadv_mnist", "convexadv_fashion_mnist"),
    "overlapping": ("perceptron", "conv-net", "lenet5"),
    "photographs": ("resnet20-12fca82f", "resnet32-d509ac18"),
}


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
        return [_stranger(name, work) for name in STREAMS[stream]]
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


def _stranger(name: str, work: Path) -> Expert:
    path = work / f"{name}.safetensors"
    if not path.exists():
        shutil.copyfile(dataset_folder() / "experts" / path.name, path)
    write_json(path.with_suffix(".json"), {"classes": DIGITS, "image_shape": SHAPE} | CARDS[name])
    return exml.load(path)


def test_set(stream: str) -> Samples:
    """All test images of the domains of a stream."""
    if stream == "photographs":
        return cifar10()["test"]
    digits = images(MNIST, train=False)
    return Samples.concat([digits, images(FashionMNIST, train=False, first=10)]) if stream == "domains" else digits


def percent(predict: Predictor, samples: Samples) -> float:
    """Accuracy."""
    return round(100 * accuracy(predict, samples), 2)


def _mean_of(experts: list[Expert], change: Callable[[Expert, Tensor], Tensor]) -> Predictor:
    @torch.no_grad()
    def predict(pixels: Tensor, _: Tensor | None) -> Tensor:
        total, count = torch.zeros(len(pixels), 20), torch.zeros(20)
        for expert in experts:
            own = torch.cat([expert.own_logits(expert.logits(part)) for part in pixels.split(500)])
            total[:, list(expert.classes)] += change(expert, own)
            count[list(expert.classes)] += 1
        return (total / count.clamp_min(1)).masked_fill(count == 0, -torch.inf)

    return predict


def without_learning(found: list[Expert], test: Samples, seed: int) -> dict[str, float]:
    """Accuracies of the experts and of their ensembles."""
    stream = ExpertStream.from_experts(found)
    baselines = {
        "logits": EnsembleAverage(),
        "probabilities": EnsembleAverage("probabilities"),
        "entropy": MinEntropy(),
    }
    rows = {name: percent(baseline(stream, 20), test) for name, baseline in baselines.items()}
    rows["centered logits"] = percent(_mean_of(found, lambda _, own: own - own.mean(1, keepdim=True)), test)
    scaled = [CommonScale()(expert, seed) for expert in found]
    rows["common scale"] = percent(_mean_of(scaled, lambda _, own: own), test)
    for expert in found:
        own = test[torch.isin(test.labels, expert.class_ids)]
        rows[f"{expert.name} on its own classes"] = percent(_mean_of([expert], lambda _, own: own), own)
    return rows


def learned(stream: str, order: tuple[int, ...], seed: int, work: Path) -> dict[str, float]:
    """Test accuracy of the student, and the seconds that it took."""
    path = work / f"{stream}-{''.join(map(str, order))}-{seed}.json"
    if not path.exists():
        found = experts(stream, seed, work)
        strategy = exml.recipes.default(ExpertProfile.from_experts(found)).build()
        torch.manual_seed(seed)
        student: nn.Module = ConvNet(1, 20 if stream == "domains" else 10, 28)
        if stream == "photographs":
            student = Normalized(SlimResNet18(), COLOR_MEAN, COLOR_STD)
        began, processor = time.perf_counter(), time.process_time()
        exml.Learner(strategy, student, seed=seed).learn_stream(ExpertStream.from_experts([found[i] for i in order]))
        seconds = {"seconds": time.perf_counter() - began, "processor_seconds": time.process_time() - processor}
        row = {name: round(value, 1) for name, value in seconds.items()}
        write_json(path, {"accuracy": percent(student_predictor(student), test_set(stream)), **row})
        print(stream, order, seed, path.read_text(encoding="utf-8"), flush=True)
    return json.loads(path.read_text(encoding="utf-8"))


def main() -> None:
    """Learn what is not learned yet, and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/strangers"), help="folder for the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--orders", type=int, help="number of orders of each stream; by default all")
    parser.add_argument("--streams", nargs="+", default=list(STREAMS), choices=list(STREAMS))
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    keep_freed_memory()
    rows: dict[str, Any] = {}
    result = {"seeds": arguments.seeds, "commit": commit(), **attrs.asdict(environment(torch.device("cpu")))}
    for stream in arguments.streams:
        row: dict[str, Any] = {"experts": list(STREAMS[stream]), "test_images": len(test_set(stream)), "students": {}}
        rows[stream] = row
        for seed in arguments.seeds:
            found = experts(stream, seed, arguments.work)
            row.setdefault("without_learning", {})[str(seed)] = without_learning(found, test_set(stream), seed)
            for order in [*permutations(range(len(found)))][: arguments.orders]:
                name = " ".join(map(str, order))
                row["students"][f"{name}, seed {seed}"] = learned(stream, order, seed, arguments.work)
                accuracies = [student["accuracy"] for student in row["students"].values()]
                row["median"], row["n"] = median(accuracies), len(accuracies)
                row["spread"] = [min(accuracies), max(accuracies)]
                write_json(RESULTS / "strangers.json", {**result, "streams": rows})


if __name__ == "__main__":
    main()
