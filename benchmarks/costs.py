"""What the model of the cost says beside what runs take; prints JSON.

    OMP_NUM_THREADS=1 uv run python benchmarks/costs.py        # about six minutes; goes on where it was stopped
    OMP_NUM_THREADS=1 uv run python benchmarks/costs.py --stages ranks        # these anew; what else there is stays

Every row is a run of :class:`exml.Learner`, several times; rows differ from the base in one quantity. After the run
:mod:`exml.costs` is asked what it should have taken: rates measured for a second or two, sizes counted. Seconds are
those that the processor spent on the one thread; where there are ranks to wait for, those of the clock. ``ratio`` is
the median of predicted / measured over the runs. Of memory two things are measured, each time in a fresh process: the
peak of the tensors that a learner makes, counted one by one, and the rise of the process's resident memory to its peak,
beyond what it had after a first tiny run. Two ranks measure the link between them first.

``benchmarks/costs_page.py`` makes a page of it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import torch

import exml
from exml.augmentation import Augmentation
from exml.combiners import ByClass
from exml.core.files import write_json
from exml.costs import CostModel, Link, at_speed, count, measure
from exml.costs._tally import tally
from exml.distributed import ALONE, Ranks, join
from exml.engine import Training, keep_freed_memory
from exml.generators import ModelInversion
from exml.learning import events
from exml.losses import Distillation
from exml.models import ConvNet, SlimResNet18
from exml.normalizers import CenterLogits
from exml.priors import BatchNormStatistics
from exml.runs.environment import environment

OUT = Path(__file__).parent / "results" / "costs_cpu.json"
CLASSES = 32


@attrs.frozen
class Case:
    """One run.

    Args:
        experts: in the stream, with two classes each, which overlap where there are more than 16.
        buffer: images.
        pixels: height and width of images of three channels.
        model: of experts and student: ``"conv-net"``, ``"conv-net wide"`` or ``"slim-resnet18"``.
        iterations: of the inversion.
        steps: of the distillation, in each experience.
        batch: images in a mini-batch of the distillation; twice as many in one of the inversion.
        views: of the bank.
        ranks: processes.
    """

    experts: int = 4
    buffer: int = 400
    pixels: int = 16
    model: str = "conv-net"
    iterations: int = 15
    steps: int = 40
    batch: int = 32
    views: int = 0
    ranks: int = 1

    def module(self, seed: int) -> torch.nn.Module:
        """An expert's, or the student."""
        torch.manual_seed(seed)
        if self.model == "slim-resnet18":
            return SlimResNet18(classes=CLASSES, width=8)
        widths = (32, 64) if self.model == "conv-net wide" else (16, 32)
        return ConvNet(channels=3, classes=CLASSES, image_size=self.pixels, widths=widths)

    def expert(self, number: int) -> exml.Expert:
        """Untrained: it takes as long to ask."""
        first = 2 * number % CLASSES
        shape = (3, self.pixels, self.pixels)
        return exml.Expert(self.module(number), (first, first + 1), shape, outputs=range(CLASSES), name=f"{number}")

    def strategy(self) -> exml.Strategy:
        """Model inversion with batch-norm statistics."""
        return exml.Strategy(
            generator=ModelInversion(iterations=self.iterations, learning_rate=0.05, batch_size=2 * self.batch),
            prior=BatchNormStatistics(1.0),
            augmentation=Augmentation(shift=1),
            combiner=ByClass(),
            normalizer=CenterLogits(),
            buffer=exml.buffers.Cumulative(self.buffer),
            loss=Distillation(cross_entropy=1.0),
            training=Training(
                iterations=self.steps, batch_size=self.batch, learning_rate=1e-4, optimizer="adam", views=self.views
            ),
        )


BASE = Case()
TIMES = {
    "base": BASE,
    "experts 16": attrs.evolve(BASE, experts=16),
    "images 200": attrs.evolve(BASE, buffer=200),
    "images 800": attrs.evolve(BASE, buffer=800),
    "pixels 32": attrs.evolve(BASE, pixels=32),
    "conv-net wide": attrs.evolve(BASE, model="conv-net wide"),
    "slim-resnet18": attrs.evolve(BASE, model="slim-resnet18"),
    "views 4": attrs.evolve(BASE, views=4),
}
RANKS = {
    f"{name}, ranks {ranks}": attrs.evolve(case, ranks=ranks)
    for name, case in (("base", BASE), ("slim-resnet18", TIMES["slim-resnet18"]))
    for ranks in (1, 2)
}
ROOMY = Case(experts=2, buffer=2_000, pixels=32, iterations=2, steps=2, batch=128)
MEMORY = {
    "base": ROOMY,
    "images 8000": attrs.evolve(ROOMY, buffer=8_000, iterations=1),
    "pixels 16": attrs.evolve(ROOMY, pixels=16),
    "batch 256": attrs.evolve(ROOMY, batch=256),
    "views 2": attrs.evolve(ROOMY, views=2),
    "slim-resnet18": attrs.evolve(ROOMY, model="slim-resnet18", buffer=500),
}
STAGES = {"times": TIMES, "ranks": RANKS, "memory": MEMORY}


class Phases:
    """Seconds of generation and of distillation, as an observer of a learner."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.seconds = {"generation": 0.0, "distillation": 0.0}
        self._clock, self._began = clock, 0.0

    def __call__(self, event: events.Event, /) -> None:
        """Note when a phase is over."""
        if isinstance(event, events.BufferUpdated):
            self._end("generation")
        elif isinstance(event, events.ExperienceFinished):
            self._end("distillation")
        elif isinstance(event, events.ExperienceStarted):
            self._began = self._clock()

    def _end(self, phase: str) -> None:
        now = self._clock()
        self.seconds[phase] += now - self._began
        self._began = now


def resident(name: str) -> int:
    """Bytes of resident memory: ``VmRSS`` now, ``VmHWM`` at its highest."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(name):
            return 1024 * int(line.split()[1])
    raise OSError(f"no {name} in /proc/self/status")


def prepare(case: Case, ranks: Ranks) -> list[exml.Expert]:
    """The experts of a case, after a first tiny run: libraries have loaded what they need."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as the command does
    small = attrs.evolve(case, experts=2, buffer=8, iterations=2, steps=2, batch=4)
    exml.Learner(small.strategy(), small.module(99), ranks=ranks).learn(small.expert(0))
    return [case.expert(number) for number in range(case.experts)]


def learn(case: Case, experts: list[exml.Expert], phases: Phases, ranks: Ranks) -> None:
    """The run itself."""
    learner = exml.Learner(case.strategy(), case.module(99), observers=[phases], ranks=ranks)
    for expert in experts:
        learner.learn(expert)


def timed(case: Case, ranks: Ranks, *, wall: bool) -> dict[str, Any]:
    """Seconds of one run, and those predicted; by the clock on the wall, or by that of the processor."""
    clock = time.perf_counter if wall else time.process_time
    experts, strategy, link, phases = prepare(case, ranks), case.strategy(), between(ranks), Phases(clock)
    ranks.wait()
    began = clock()
    learn(case, experts, phases, ranks)
    measured = {"seconds": clock() - began, **phases.seconds}
    ranks.wait()
    if not ranks.leader:
        ranks.wait()
        return {}
    sizes = count(strategy, experts[0], case.module(99))
    rates = measure(strategy, experts[0], case.module(99), link=link, clock=clock)
    cost = CostModel(strategy, rates, sizes, ranks.size).cost(case.experts)
    operations = CostModel(strategy, at_speed(strategy, sizes, flops_per_second=1.0), sizes).cost(case.experts)
    ranks.wait()
    predicted = {"seconds": cost.seconds, "generation": cost.generation, "distillation": cost.distillation}
    said = {"link": attrs.asdict(link)} if case.ranks > 1 else {}
    return {"measured": measured, "predicted": predicted, "operations": operations.seconds, **said}


def weighed(case: Case) -> dict[str, Any]:
    """Memory of one run, and that predicted."""
    experts, strategy = prepare(case, ALONE), case.strategy()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak begins anew
    before = resident("VmRSS")
    learn(case, experts, Phases(time.process_time), ALONE)
    rise = resident("VmHWM") - before
    counted = tally(lambda: learn(case, experts, Phases(time.process_time), ALONE)).peak
    sizes = count(strategy, experts[0], case.module(99))
    nothing = at_speed(strategy, sizes, flops_per_second=1.0)
    parts = CostModel(strategy, nothing, sizes).cost(case.experts).experiences
    predicted = max(part.memory.peak - part.memory.models for part in parts)  # the models were there before
    return {
        "measured": {"tensors": counted, "resident": rise},
        "predicted": {"tensors": predicted, "resident": predicted},
        "operations": None,
    }


def here(stage: str, names: list[str]) -> dict[str, Any]:
    """One run of each of some cases, in this process or in one for each rank."""
    cases = {name: STAGES[stage][name] for name in names}
    if stage == "memory":
        return {name: weighed(case) for name, case in cases.items()}
    with join() as ranks:
        return {name: timed(case, ranks, wall=stage == "ranks") for name, case in cases.items()}


def groups() -> list[tuple[str, int, list[str]]]:
    """Which cases share a process: all of a stage with as many ranks, but each by itself where memory is measured."""
    alone = [("memory", 1, [name]) for name in MEMORY]
    ranked = [("ranks", size, [name for name, case in RANKS.items() if case.ranks == size]) for size in (1, 2)]
    return [("times", 1, list(TIMES)), *ranked, *alone]


def between(ranks: Ranks) -> Link:
    """What connects this process with the others: small exchanges and large ones, one after another."""
    if ranks.alone:
        return Link()
    times: dict[int, list[float]] = {}
    for size, repeats in ((64, 200), (2**20, 15)):
        values = torch.zeros(size)
        for _ in range(repeats):
            for exchange in (ranks.add, ranks.gather):
                began = time.perf_counter()
                exchange(values)
                times.setdefault(4 * size, []).append(time.perf_counter() - began)
    (few, at_few), (many, at_many) = ((size, statistics.median(seconds)) for size, seconds in times.items())
    return Link(at_few, (many - few) / (at_many - at_few))


def fresh(arguments: list[str], ranks: int) -> Any:
    """What this script finds in a process of its own, or in one for each rank."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
        subprocess.run(
            [sys.executable, *start, __file__, *arguments, "--found", str(found)],
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        return json.loads(found.read_text(encoding="utf-8"))


def row(case: Case, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What is published of the runs of a case."""
    keys = runs[0]["measured"]
    entry: dict[str, Any] = {"case": attrs.asdict(case), "n": len(runs), "operations": runs[0]["operations"]}
    if "link" in runs[0]:
        speeds = {name: [found["link"][name] for found in runs] for name in ("latency", "bytes_per_second")}
        entry["link"] = {name: statistics.median(values) for name, values in speeds.items()}
    for key in keys:
        measured, predicted = ([found[side][key] for found in runs] for side in ("measured", "predicted"))
        ratios = [p / m for p, m in zip(predicted, measured, strict=True)]
        entry[key] = {
            "measured": statistics.median(measured),
            "spread": [min(measured), max(measured)],
            "predicted": statistics.median(predicted),
            "predicted_spread": [min(predicted), max(predicted)],
            "ratio": round(statistics.median(ratios), 3),
        }
    return entry


def plan() -> dict[str, Any]:
    """Strategy and sizes of a stream that is planned, not run: what the page asks the model about."""
    training = Training(iterations=800, batch_size=128, learning_rate=0.01, optimizer="adam", schedule="one-cycle")
    strategy = attrs.evolve(
        BASE.strategy(),
        generator=ModelInversion(iterations=150, learning_rate=0.05, temperature=2.0, batch_size=512),
        buffer=exml.buffers.Cumulative(20_000),
        training=training,
    )
    expert = exml.Expert(SlimResNet18(classes=10), range(10), (3, 32, 32))
    sizes = count(strategy, expert, SlimResNet18(classes=1_000))
    return {
        "models": "the paper's ResNet-18 for CIFAR-10, the experts with 10 classes each and the student with 1,000",
        "images": "3x32x32",
        "strategy": strategy.to_dict(),
        "sizes": attrs.asdict(sizes),
    }


def described() -> dict[str, Any]:
    """Where and with what this was measured."""
    command = ["git", "log", "-1", "--format=%h", "--", "exml"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    commit = os.environ.get("EXML_COMMIT") or done.stdout.strip() or None
    return {**attrs.asdict(environment(torch.device("cpu"))), "commit": commit}


def main() -> None:
    """Measure what is not there yet, a run of every case in each round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT, help="the JSON")
    parser.add_argument("--n", type=int, default=3, help="runs of a case")
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=list(STAGES))
    parser.add_argument("--here", nargs="+", metavar="STAGE CASE", help="a run of some cases, in this process")
    parser.add_argument("--found", type=Path, help="where one run writes what it found")
    arguments = parser.parse_args()
    if arguments.here:
        found = here(arguments.here[0], arguments.here[1:])
        if int(os.environ.get("RANK", "0")) == 0:
            write_json(arguments.found, found)
        return
    torch.set_num_threads(1)
    kept = arguments.out.with_name(f".{arguments.out.stem}.runs.json")
    runs: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    for turn, (stage, ranks, names) in itertools.product(range(arguments.n), groups()):
        done = [runs.setdefault(stage, {}).setdefault(name, []) for name in names]
        if stage in arguments.stages and len(done[0]) <= turn:
            found = fresh(["--here", stage, *names], ranks)
            for name, kept_runs in zip(names, done, strict=True):
                kept_runs.append(found[name])
                measured, predicted = found[name]["measured"], found[name]["predicted"]
                print(stage, name, *(f"{key} {predicted[key] / measured[key]:.2f}" for key in measured), flush=True)
            write_json(kept, runs)
    result: dict[str, Any] = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {}
    for stage in arguments.stages:
        rows = {name: row(case, runs[stage][name]) for name, case in STAGES[stage].items()}
        result[stage] = {"environment": described(), "rows": rows}
    write_json(arguments.out, {**result, "plan": plan()})
    left = {stage: cases for stage, cases in runs.items() if stage not in arguments.stages}
    if left:
        write_json(kept, left)
    else:
        kept.unlink()


if __name__ == "__main__":
    main()
