"""Ways to change the mathematics of the default strategy for speed: what each costs and gains, side by side.

    uv run python benchmarks/options.py --work runs/options     # killed, it goes on where it was

Every option changes one thing of ``recipes.exml("digits-nc")``. All of one seed learn from the same experts, one
after another in one process. Accuracy is that on the **validation** images, since what stays is chosen by it; no
test image is looked at. Seconds are those of generation and of distillation over the whole stream. The result goes to
``benchmarks/results/options_cpu.json``.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import torch

from exml import experiment
from exml._files import write_json
from exml.engine import keep_freed_memory
from exml.generators import BufferedImages, ProceduralImages
from exml.recipes import recipe
from exml.report import Result
from exml.strategy import Strategy

ROOT = Path(__file__).parents[1]
SCENARIO = "digits-nc"


def inversion(**changes: Any) -> Callable[[Strategy], Strategy]:
    """The default's generator with some of its settings changed."""
    return lambda strategy: attrs.evolve(strategy, generator=attrs.evolve(strategy.generator, **changes))


def training(**changes: Any) -> Callable[[Strategy], Strategy]:
    """The default's training with some of its settings changed."""
    return lambda strategy: attrs.evolve(strategy, training=attrs.evolve(strategy.training, **changes))


OPTIONS: dict[str, tuple[str, Callable[[Strategy], Strategy]]] = {
    "default": ("as the recipe is", lambda strategy: strategy),
    "stop-at": ("images leave the mini-batch when p > 0.99", inversion(stop_at=0.99)),
    "short": ("half the inversion steps, from noise", inversion(iterations=75)),
    "short-buffer": ("half the inversion steps, from earlier images", inversion(iterations=75, start=BufferedImages())),
    "short-procedural": (
        "half the inversion steps, from procedural images",
        inversion(iterations=75, start=ProceduralImages()),
    ),
    "bank": ("a bank of 8 views, teachers asked once about each", training(views=8)),
    "bank-4": ("a bank of 4 views", training(views=4)),
    "large-batch": (
        "batch 512, learning rate twice, a quarter of the steps",
        training(batch_size=512, iterations=200, learning_rate=0.02),
    ),
    "fewer": ("half the distillation steps", training(iterations=400)),
    "bank-fewer": ("a bank of 8 views, half the distillation steps", training(views=8, iterations=400)),
    "bank-large-batch": (
        "a bank of 8 views, batch 512, learning rate twice, a quarter of the steps",
        training(views=8, batch_size=512, iterations=200, learning_rate=0.02),
    ),
    "bank-fewer-short": (
        "a bank of 8 views, half the distillation steps, half the inversion steps",
        lambda strategy: inversion(iterations=75)(training(views=8, iterations=400)(strategy)),
    ),
}


def main() -> None:
    """Measure what is not measured yet, and gather."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/options"), help="folder for the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--options", nargs="+", default=list(OPTIONS), choices=list(OPTIONS))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "options_cpu.json")
    arguments = parser.parse_args()
    keep_freed_memory()
    results: list[Result] = []
    for seed in arguments.seeds:
        default = recipe("exml", SCENARIO, seed).build()
        strategies = {name: OPTIONS[name][1](default) for name in arguments.options}
        out = arguments.work / f"{SCENARIO}-{seed}"
        results.append(experiment.run(SCENARIO, strategies, out, seed=seed, split="validation", resume=out.exists()))
        print(f"seed {seed} is done", flush=True)
    write_json(arguments.out, gather(results, arguments.options))
    print(f"wrote {arguments.out}")


def gather(results: list[Result], names: list[str]) -> dict[str, Any]:
    """A row an option: accuracies in percent and seconds, a list over the seeds, and medians of paired ratios."""
    rows: dict[str, dict[str, Any]] = {}
    for name in names:
        of_name = [next(part for part in result.strategies if part.name == name) for result in results]
        of_default = [next(part for part in result.strategies if part.name == "default") for result in results]
        row: dict[str, Any] = {
            "what": OPTIONS[name][0],
            "accuracy": [round(100 * part.stream_accuracy[-1], 2) for part in of_name],
            "generation_s": [round(part.seconds.generation, 1) for part in of_name],
            "distillation_s": [round(part.seconds.distillation, 1) for part in of_name],
        }
        pairs = list(zip(of_name, of_default, strict=True))
        row["time_ratio"] = round(statistics.median(_seconds(a) / _seconds(b) for a, b in pairs), 3)
        row["accuracy_gain"] = round(
            statistics.fmean(100 * (a.stream_accuracy[-1] - b.stream_accuracy[-1]) for a, b in pairs), 2
        )
        rows[name] = row
    first = results[0].environments[0]
    return {
        "scenario": SCENARIO,
        "split": "validation",
        "seeds": [result.seed for result in results],
        "hardware": first.hardware,
        "threads": torch.get_num_threads(),
        "versions": dict(first.versions),
        "commit": _commit(),
        "rows": rows,
    }


def _seconds(part: Any) -> float:
    return part.seconds.generation + part.seconds.distillation


def _commit() -> str:
    """The last commit that changed the package."""
    command = ["git", "log", "-1", "--format=%h", "--", "exml"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
