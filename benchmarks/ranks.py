"""How much faster several ranks are than one, on the same images; prints JSON.

    uv run torchrun --nproc-per-node 2 benchmarks/ranks.py --out benchmarks/results/ranks_cpu.json

Every rank has one thread (``torchrun`` sees to that). In each of n rounds the first rank makes some steps of
:func:`exml.engine.invert` or :func:`exml.engine.distill` alone, while the others sleep, and then all of them make the
same steps together, so that what else the machine does meets both alike. ``speed_up`` is the median over the rounds of
the ratio of the two median times of a step, ``spread`` the interquartile range of these ratios. ``exchanges`` are
single all-gathers of some numbers of each rank, in microseconds, ours and those of the communication library in turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from ratios import INVERSIONS, AfterEveryStep, described, our_distillation, our_inversion, trained_like
from torch import nn

import exml
from exml.core.files import write_text
from exml.distributed import ALONE, Ranks, join, local_device
from exml.engine import Training, keep_freed_memory
from exml.models import LeNet5, SlimResNet18

WARM_UP = 2
DISTILLATIONS: dict[str, tuple[type[nn.Module], tuple[int, ...]]] = {
    "distillation slim-resnet18 32x3x32x32": (SlimResNet18, (32, 3, 32, 32)),
    "distillation slim-resnet18 128x3x32x32": (SlimResNet18, (128, 3, 32, 32)),
    "distillation lenet5 32x1x32x32": (LeNet5, (32, 1, 32, 32)),
    "distillation lenet5 128x1x32x32": (LeNet5, (128, 1, 32, 32)),
}
Case = Callable[[Ranks, int, "Times"], None]


class Times(AfterEveryStep):
    """When each step ended."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.ends = [self._now()]

    def __call__(self, *_: Any) -> None:
        """A step is over."""
        self.ends.append(self._now())

    def median(self) -> float:
        """Milliseconds of a step after the warm-up."""
        ends = self.ends[1 + WARM_UP :]
        return 1e3 * statistics.median(after - before for before, after in pairwise(ends))

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def inversion(name: str, device: torch.device) -> Case:
    """Steps of :func:`exml.engine.invert`."""
    model, shape, _, _ = INVERSIONS[name]
    torch.manual_seed(0)
    network = trained_like(model()).to(device).eval().requires_grad_(False)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
    return lambda ranks, steps, times: our_inversion(name, network, images, steps, journal=times, ranks=ranks)


def distillation(name: str, device: torch.device) -> Case:
    """Steps of :func:`exml.engine.distill` in the second experience: with both teachers."""
    model, shape = DISTILLATIONS[name]
    torch.manual_seed(0)
    modules = [trained_like(model()).to(device) for _ in range(3)]
    memory = exml.Samples.of(torch.rand(2_000, *shape[1:]), torch.arange(2_000) % 10, experience=1).to(device)

    def case(ranks: Ranks, steps: int, times: Times) -> None:
        training = Training(iterations=steps, batch_size=shape[0], learning_rate=1e-4, momentum=0.9)
        our_distillation(modules, memory, training, after_step=times, ranks=ranks)

    return case


def measured(case: Case, ranks: Ranks, rounds: int, steps: int, device: torch.device) -> dict[str, Any]:
    """One row; what the leader measured."""
    alone: list[float] = []
    together: list[float] = []
    for _ in range(rounds):
        if ranks.leader:
            times = Times(device)
            case(ALONE, WARM_UP + steps, times)
            alone.append(times.median())
        ranks.wait()
        times = Times(device)
        case(ranks, WARM_UP + steps, times)
        together.append(times.median())
        ranks.wait()
    if not ranks.leader:
        return {}
    ratios = [one / many for one, many in zip(alone, together, strict=True)]
    quartiles = statistics.quantiles(ratios, n=4)
    return {
        "alone_ms": round(statistics.median(alone), 3),
        "together_ms": round(statistics.median(together), 3),
        "speed_up": round(statistics.median(ratios), 3),
        "n": len(ratios),
        "spread": [round(quartiles[0], 3), round(quartiles[2], 3)],
    }


def exchanges(ranks: Ranks, device: torch.device, count: int = 300) -> list[dict[str, Any]]:
    """How long an all-gather of some numbers takes; what the leader measured."""
    rows: list[dict[str, Any]] = []
    for numbers in (400, 5_000, 60_000):
        values, whole = torch.randn(numbers, device=device), torch.empty(ranks.size, numbers, device=device)
        forms = {"ours_us": lambda v=values: ranks.gather(v), "library_us": lambda v=values, w=whole: _library(w, v)}
        times: dict[str, list[float]] = {name: [] for name in forms}
        for _ in range(count):
            for name, form in forms.items():
                ranks.gather(values)  # nobody is late
                began = time.perf_counter()
                form()
                times[name].append(1e6 * (time.perf_counter() - began))
        row = {name: round(statistics.median(found[10:]), 1) for name, found in times.items()}
        rows.append({"numbers": numbers, **row, "n": count - 10})
    return rows if ranks.leader else []


def _library(whole: torch.Tensor, values: torch.Tensor) -> None:
    dist.all_gather(list(whole.unbind()), values)


def main() -> None:
    """Measure the rows and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rows = [*INVERSIONS, *DISTILLATIONS]
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=7, help="rounds that are measured, >= 2")
    parser.add_argument("--steps", type=int, default=6, help="steps of a round after its warm-up, >= 2")
    parser.add_argument("--rows", nargs="+", default=rows, choices=rows)
    parser.add_argument("--out", type=Path, default=None, help="a file for the JSON")
    arguments = parser.parse_args()
    keep_freed_memory()
    with join(timeout=120) as ranks:
        device = local_device(torch.device(arguments.device), ranks)
        table: dict[str, Any] = {}
        for row in arguments.rows:
            case = (inversion if row in INVERSIONS else distillation)(row, device)
            table[row] = measured(case, ranks, arguments.rounds, arguments.steps, device)
        exchanged = exchanges(ranks, device)
        if ranks.leader:
            seen = {**described(str(device)), "ranks": ranks.size}
            text = json.dumps({"environment": seen, "rows": table, "exchanges": exchanged}, indent=1)
            if arguments.out is not None:
                write_text(arguments.out, text + "\n")
            print(text)


if __name__ == "__main__":
    main()
