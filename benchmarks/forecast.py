"""Forecasts compared with the runs that they are about.

    OMP_NUM_THREADS=1 uv run python benchmarks/forecast.py        # about ten minutes on one core

Each case is forecast and then run, several times, each time in a process of its own. Seconds are processor seconds of
generation and distillation on one thread, for the forecast and for the run, since the machine may be shared. Rows
differ from the base in one quantity. The page is written by ``benchmarks/make_pages.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

import attrs
import torch
from page_parts import TIME_AND_MEMORY
from pages import commit

import exml
from exml.augmentation import Augmentation
from exml.buffers import Cumulative
from exml.combiners import ByClass
from exml.engine import keep_freed_memory
from exml.generators import ModelInversion, ProceduralImages
from exml.learning import events
from exml.losses import Distillation
from exml.models import ConvNet, SlimResNet18
from exml.normalizers import CenterLogits
from exml.priors import BatchNormStatistics
from exml.runs import forecast
from exml.runs.environment import environment

CLASSES = 32


@attrs.frozen
class Case:
    """One stream and one strategy.

    Args:
        experts: length of the stream; each expert knows two of 32 classes.
        buffer: images in the buffer.
        pixels: height and width of images with three channels.
        model: of experts and student: ``"conv-net"`` or ``"slim-resnet18"``.
        iterations: of the inversion; 0 takes procedural images instead.
        steps: of the distillation, per experience.
        views: of the bank.
    """

    experts: int = 4
    buffer: int = 400
    pixels: int = 16
    model: str = "conv-net"
    iterations: int = 15
    steps: int = 40
    views: int = 0

    def module(self, seed: int) -> torch.nn.Module:
        """An expert's module, or the student."""
        torch.manual_seed(seed)
        if self.model == "slim-resnet18":
            return SlimResNet18(classes=CLASSES, width=8)
        return ConvNet(channels=3, classes=CLASSES, image_size=self.pixels, widths=(16, 32))

    def expert(self, number: int) -> exml.Expert:
        """An untrained expert, which takes as long as a trained one."""
        first = 2 * number % CLASSES
        shape = (3, self.pixels, self.pixels)
        return exml.Expert(self.module(number), (first, first + 1), shape, outputs=range(CLASSES), name=f"{number}")

    def strategy(self) -> exml.Strategy:
        """Model inversion with batch-norm statistics, or procedural images."""
        generator = ModelInversion(iterations=max(1, self.iterations), learning_rate=0.05, batch_size=64)
        return exml.Strategy(
            generator=generator if self.iterations else ProceduralImages(),
            prior=BatchNormStatistics(1.0) if self.iterations else None,
            augmentation=Augmentation(shift=1),
            combiner=ByClass(),
            normalizer=CenterLogits(),
            buffer=Cumulative(self.buffer),
            loss=Distillation(cross_entropy=1.0),
            training=exml.Training(
                iterations=self.steps, batch_size=32, learning_rate=1e-4, optimizer="adam", views=self.views
            ),
        )


CASES = {
    "base": Case(),
    "16 experts": Case(experts=16),
    "800 images": Case(buffer=800),
    "32x32 pixels": Case(pixels=32),
    "SlimResNet18": Case(model="slim-resnet18"),
    "4 views": Case(views=4),
    "procedural images": Case(iterations=0),
}


def measure(case: Case) -> dict[str, float]:
    """Forecast one case, then run it."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as the command does
    strategy, experts = case.strategy(), [case.expert(number) for number in range(case.experts)]
    expected = forecast(strategy, experts[0], case.module(99), experts=case.experts, clock=time.process_time)
    marks = [time.process_time()]
    seconds = {"generation": 0.0, "distillation": 0.0}

    def observe(event: events.Event, /) -> None:
        phase = {events.BufferUpdated: "generation", events.ExperienceFinished: "distillation"}.get(type(event))
        if phase is not None or isinstance(event, events.ExperienceStarted):
            marks.append(time.process_time())
        if phase is not None:
            seconds[phase] += marks[-1] - marks[-2]

    exml.Learner(strategy, case.module(99), observers=[observe]).learn_stream(exml.ExpertStream.from_experts(experts))
    took = sum(seconds.values())
    return {"forecast": expected.seconds, "took": took}


def row(case: Case, runs: list[dict[str, float]]) -> dict[str, Any]:
    """Medians of several runs, with the smallest and the largest value."""
    columns = {name: [found[name] for found in runs] for name in runs[0]}
    columns["ratio"] = [found["forecast"] / found["took"] for found in runs]
    found = {name: {"median": statistics.median(of), "spread": [min(of), max(of)]} for name, of in columns.items()}
    return {"case": attrs.asdict(case), "n": len(runs), **found}


def main() -> None:
    """Measure all cases in rounds, so that a slow moment of the machine meets all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=3, help="runs per case")
    parser.add_argument("--case", help="measure one run of this case in this process, and print it")
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(CASES[arguments.case])))
        return
    torch.set_num_threads(1)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in CASES}
    for _ in range(arguments.n):
        for name, found in runs.items():
            command = [sys.executable, __file__, "--case", name]
            done = subprocess.run(
                command, check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )
            found.append(json.loads(done.stdout.splitlines()[-1]))
            print(name, found[-1], flush=True)
    place = {**attrs.asdict(environment(torch.device("cpu"))), "commit": commit("benchmarks/forecast.py")}
    rows = {name: row(CASES[name], found) for name, found in runs.items()}
    TIME_AND_MEMORY.record("forecast_cpu.json", {"environment": place, "rows": rows})


if __name__ == "__main__":
    main()
