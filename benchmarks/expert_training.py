"""The speed of expert training, compared with a plain PyTorch loop.

    uv run python benchmarks/expert_training.py

Both train the same module on the same bytes with the settings of appendix A: ours with
:class:`exml.experts.ExpertTraining`, the other with a ``TensorDataset`` of normalized floats, a ``DataLoader`` without
workers and ``torch.optim.SGD``. They alternate in one process on one thread, and each time is that of one epoch.
Seconds are CPU time, because the machine may be shared. The result goes to
``benchmarks/results/expert_training_cpu.json``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import torch
from pages import commit
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from exml.core.files import write_json
from exml.core.samples import Samples
from exml.engine import keep_freed_memory
from exml.experts import ExpertTraining, train_expert
from exml.models import LeNet5, SlimResNet18
from exml.runs.environment import environment

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "expert_training_cpu.json"
MEAN, STD = 0.4, 0.3
TRAINING = ExpertTraining(epochs=1, learning_rate=0.01)

CASES: dict[str, tuple[str, Callable[[], nn.Module], tuple[int, int, int], int]] = {
    "lenet5": ("LeNet5, 1x32x32", lambda: LeNet5(1, 10, 32), (1, 32, 32), 3200),
    "slim-resnet18": ("SlimResNet18 of width 20, 3x32x32", lambda: SlimResNet18(3, 10, 20), (3, 32, 32), 320),
}
"""A title, the module, the shape of its images, and the number of images per epoch."""


def ours(module: nn.Module, samples: Samples) -> None:
    """One epoch."""
    train_expert(module, samples, training=TRAINING, mean=(MEAN,), std=(STD,))


def usual(module: nn.Module, samples: Samples) -> None:
    """One epoch of a plain PyTorch loop."""
    data = TensorDataset((samples.pixels() - MEAN) / STD, samples.labels)
    optimizer = torch.optim.SGD(
        module.parameters(), TRAINING.learning_rate, TRAINING.momentum, weight_decay=TRAINING.weight_decay
    )
    module.train()
    for images, labels in DataLoader(data, TRAINING.batch_size, shuffle=True):
        loss = nn.functional.cross_entropy(module(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def measure(name: str, pairs: int) -> dict[str, Any]:
    """Images per second of both, measured in turns, and their ratio."""
    what, make, shape, count = CASES[name]
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=draws)
    samples = Samples.of(images, torch.arange(count) % 10)
    seconds: dict[str, list[float]] = {"ours": [], "usual": []}
    for turn in range(pairs + 1):
        for way, train in (("ours", ours), ("usual", usual)):
            torch.manual_seed(0)
            module, began = make(), time.process_time()
            train(module, samples)
            if turn:  # the first pair warms up
                seconds[way].append(time.process_time() - began)
    rates = {way: sorted(round(count / spent, 1) for spent in times) for way, times in seconds.items()}
    ratios = sorted(usual / own for own, usual in zip(seconds["ours"], seconds["usual"], strict=True))
    return {
        "what": what,
        "images": count,
        "n": pairs,
        **{way: {"median": statistics.median(rate), "spread": [rate[0], rate[-1]]} for way, rate in rates.items()},
        "speedup": {"median": round(statistics.median(ratios), 2), "spread": [round(ratios[at], 2) for at in (0, -1)]},
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    rows = {name: measure(name, arguments.pairs) for name in CASES}
    here = attrs.asdict(environment(torch.device("cpu")))
    write_json(arguments.out, {"commit": commit(), **here, "rows": rows})
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
