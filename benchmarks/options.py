"""Settings of the default strategy that change its mathematics for speed: what each costs and gains.

    uv run python benchmarks/options.py --work runs/options     # the same command resumes after a kill

Each option changes one setting of what the default recipe for digits-nc was before any of them. All options of one
seed learn from the same experts. Accuracy is on the **validation** images, because it selects options; no test image
is used. Seconds are processor time (one thread) of generation and distillation over the whole stream, since the
machine may be shared. The result goes to ``benchmarks/results/options_cpu.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import torch
from pages import commit

import exml
from exml import scenarios
from exml.core.files import write_json
from exml.engine import keep_freed_memory
from exml.generators import BufferedImages, ProceduralImages
from exml.learning import events
from exml.learning.strategy import Strategy
from exml.recipes import for_scenario
from exml.runs.environment import environment
from exml.runs.evaluation import evaluate_student
from exml.scenarios import Scenario

ROOT = Path(__file__).parents[1]
SCENARIO = "digits-nc"
BASE = "base"


def inversion(**changes: Any) -> Callable[[Strategy], Strategy]:
    """The default's generator with some of its settings changed."""
    return lambda strategy: attrs.evolve(strategy, generator=attrs.evolve(strategy.generator, **changes))


def training(**changes: Any) -> Callable[[Strategy], Strategy]:
    """The default's training with some of its settings changed."""
    return lambda strategy: attrs.evolve(strategy, training=attrs.evolve(strategy.training, **changes))


OPTIONS: dict[str, tuple[str, Callable[[Strategy], Strategy]]] = {
    BASE: ("nothing", lambda strategy: strategy),
    "stop-at": ("images leave the mini-batch when p > 0.99", inversion(stop_at=0.99)),
    "short": ("half the inversion steps, from noise", inversion(iterations=75)),
    "short-buffer": ("half the inversion steps, from earlier images", inversion(iterations=75, start=BufferedImages())),
    "short-procedural": (
        "half the inversion steps, from procedural images",
        inversion(iterations=75, start=ProceduralImages()),
    ),
    "bank": ("a bank of 8 views, teachers asked once about each", training(views=8)),
    "large-batch": (
        "batch 512, learning rate twice, a quarter of the steps",
        training(batch_size=512, iterations=200, learning_rate=0.02),
    ),
    "fewer": ("half the distillation steps", training(iterations=400)),
    "bank-fewer": ("a bank of 8 views, half the distillation steps", training(views=8, iterations=400)),
    "bank-short-buffer": (
        "a bank of 8 views, half the inversion steps, from earlier images",
        lambda strategy: inversion(iterations=75, start=BufferedImages())(training(views=8)(strategy)),
    ),
}


@attrs.define
class Clock:
    """CPU seconds by phase; an observer of a learner's events."""

    seconds: dict[str, float] = attrs.field(factory=lambda: {"generation": 0.0, "distillation": 0.0})
    began: float = 0.0

    def __call__(self, event: events.Event, /) -> None:
        """Note when a phase begins and ends."""
        now = time.process_time()
        if isinstance(event, events.BufferUpdated):
            self.seconds["generation"] += now - self.began
        elif isinstance(event, events.ExperienceFinished):
            self.seconds["distillation"] += now - self.began
        if isinstance(event, events.ExperienceStarted | events.BufferUpdated):
            self.began = now


def measure(scenario: Scenario, seed: int, name: str, work: Path) -> dict[str, Any]:
    """Learn the stream with one option, unless that is done already."""
    strategy = OPTIONS[name][1](base(seed))
    path = work / str(seed) / f"{name}.json"
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if Strategy.from_dict(found["strategy"]) == strategy:
            return found
    clock = Clock()
    learner = exml.Learner(strategy, scenario.make_student(seed), seed=seed, observers=[clock])
    learner.learn_stream(scenario.train_experts(seed, work / str(seed) / "experts"))
    accuracy = evaluate_student(learner.student, scenario).stream
    found = {"strategy": strategy.to_dict(), "accuracy": accuracy, "seconds": clock.seconds}
    write_json(path, found)
    return found


def base(seed: int) -> Strategy:
    """The default without the options that it has taken up."""
    return training(views=0)(for_scenario("exml", SCENARIO, seed).build())


def main() -> None:
    """Measure what is not measured yet, and gather."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/options"), help="folder for the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--options", nargs="+", default=list(OPTIONS), choices=list(OPTIONS))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "options_cpu.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    measured: dict[str, list[dict[str, Any]]] = {name: [] for name in arguments.options}
    for seed in arguments.seeds:
        scenario = scenarios.load(SCENARIO, seed, "validation")
        for name in arguments.options:
            measured[name].append(measure(scenario, seed, name, arguments.work))
            print(seed, name, measured[name][-1]["accuracy"], measured[name][-1]["seconds"], flush=True)
    write_json(arguments.out, gather(measured, arguments.seeds))
    print(f"wrote {arguments.out}")


def gather(measured: dict[str, list[dict[str, Any]]], seeds: list[int]) -> dict[str, Any]:
    """A row an option: accuracies in percent and seconds, a list over the seeds, and how they compare with the base."""
    rows: dict[str, dict[str, Any]] = {}
    for name, found in measured.items():
        pairs = list(zip(found, measured[BASE], strict=True))
        rows[name] = {
            "what": OPTIONS[name][0],
            "accuracy": [round(100 * part["accuracy"], 2) for part in found],
            "generation_s": [round(part["seconds"]["generation"], 1) for part in found],
            "distillation_s": [round(part["seconds"]["distillation"], 1) for part in found],
            "time_ratio": round(statistics.median(_seconds(a) / _seconds(b) for a, b in pairs), 3),
            "accuracy_gain": round(statistics.fmean(100 * (a["accuracy"] - b["accuracy"]) for a, b in pairs), 2),
        }
    here = attrs.asdict(environment(torch.device("cpu")))
    return {"scenario": SCENARIO, "split": "validation", "seeds": seeds, "commit": commit(), **here, "rows": rows}


def _seconds(part: dict[str, Any]) -> float:
    return sum(part["seconds"].values())


if __name__ == "__main__":
    main()
