"""Seconds to a stream accuracy: a plain Algorithm 1 compared with the default strategy, on the same experts.

    uv run python benchmarks/time_to_accuracy.py --work DIR     # the same command resumes after a kill

The plain version (``straightforward.py``: plain loops, the paper's settings) learns a stream of experts with a share of
the paper's budget (``--budget``), because the whole budget takes hours on a CPU. Then the default strategy learns the
same stream in the same process with the same number of threads; for every second seed the order is reversed. Seconds
are those of generation and distillation, without evaluations. The accuracy is that on the test images of all
experiences.

``ratio`` is the time at which the default strategy reaches the final accuracy of the plain version, and stays above it,
in units of the plain version's time. Two more columns are the ratio of the whole times, and the time to the best
accuracy of the plain version. The settings of the default strategy were chosen on validation images.

Each run is one file below ``--work``; ``benchmarks/results/time_to_accuracy.json`` is gathered from these.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import torch

import exml
from exml import scenarios
from exml.core.files import write_json
from exml.experts import ExpertStream
from exml.learning import events
from exml.learning.strategy import Strategy
from exml.models import Normalized
from exml.runs.environment import environment
from exml.runs.evaluation import evaluate_student
from exml.scenarios import Scenario

sys.path.insert(0, str(Path(__file__).parent))
import straightforward
from pages import commit

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "time_to_accuracy.json"
SCENARIOS = ("mnist-nc", "digits-nc", "cifar10-joint")
SIDES = ("straightforward", "exml")
EVERY = 200
"""Steps of our distillation between two evaluations within an experience."""


@attrs.define
class Curve:
    """Accuracies against the seconds of training, without those of evaluation.

    Args:
        points: seconds, stream accuracy in percent, finished experiences, steps of the current one.
    """

    student: Normalized
    scenario: Scenario
    points: list[tuple[float, float, int, int]] = attrs.field(factory=list)
    _passed: float = 0.0
    _since: float = attrs.field(factory=time.perf_counter)

    def start(self) -> None:
        """From here on time counts."""
        self._synchronise()
        self._passed, self._since = 0.0, time.perf_counter()

    def look(self, experience: int, step: int = 0) -> None:
        """Add a point."""
        self._synchronise()
        self._passed += time.perf_counter() - self._since
        accuracy = 100 * evaluate_student(self.student, self.scenario).stream
        self.points.append((round(self._passed, 3), round(accuracy, 2), experience, step))
        print(f"  {self._passed:8.1f} s  {accuracy:5.1f} %", flush=True)
        self._synchronise()
        self._since = time.perf_counter()

    def __call__(self, event: events.Event, /) -> None:
        """A learner's observer."""
        match event:
            case events.ExperienceFinished(experience=experience):
                self.look(experience)
            case events.DistillationProgress(experience=experience, done=done, total=total):
                if done % EVERY == 0 and done < total:
                    self.look(experience - 1, done)
            case _:
                pass

    def _synchronise(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()


def default_strategy(scenario: str, seed: int) -> Strategy:
    """The default strategy for the experts of a scenario."""
    return exml.recipes.for_scenario("exml", scenario, seed).build()


def settings_of(side: str, scenario: str, seed: int, budget: float) -> dict[str, Any]:
    """What decides the outcome of a run, but for the experts."""
    if side == "exml":
        return default_strategy(scenario, seed).to_dict()
    return {"budget": budget, **straightforward.settings(budget, 3 if scenario.startswith("cifar10") else 1)}


def run_side(side: str, scenario: Scenario, experts: ExpertStream, seed: int, budget: float, device: str) -> Curve:
    """Learn the stream, from the same initial student on either side."""
    student = scenario.make_student(seed).to(device)
    _warm_up(student, scenario.image_shape, device)
    curve = Curve(student, scenario)
    if side == "exml":
        strategy = default_strategy(scenario.name, seed)
        curve.start()
        exml.Learner(strategy, student.to(device), seed=seed, observers=[curve]).learn_stream(experts)
        return curve
    modules = [(expert.to(device).module, expert.classes) for expert in experts]
    shape = scenario.image_shape
    shift = shape[1] // 8  # "small displacements": 4 pixels of 32, 1 of 8
    curve.start()
    straightforward.learn(
        student.module, modules, shape, shift=shift, budget=budget, seed=seed, after_experience=curve.look
    )
    return curve


def measure(name: str, seed: int, budget: float, device: str, work: Path) -> None:
    """Both sides, unless a file says that they were run with these settings."""
    scenario = scenarios.load(name, seed)
    folder = work / name / f"budget-{budget}" / str(seed)
    experts = scenario.train_experts(seed, work / name / "experts" / str(seed), device=device)
    for side in SIDES if seed % 2 == 0 else SIDES[::-1]:
        path = folder / f"{side}.json"
        where = attrs.asdict(environment(torch.device(device)))
        asked = {"settings": settings_of(side, name, seed, budget), "environment": where}
        if path.exists():
            done = json.loads(path.read_text(encoding="utf-8"))
            if {key: done[key] for key in asked} == json.loads(json.dumps(asked)):
                continue
        print(f"{name}, seed {seed}, {side}", flush=True)
        curve = run_side(side, scenario, experts, seed, budget, device)
        fingerprints = [expert.fingerprint() for expert in experts]
        row = {"commit": commit("benchmarks/straightforward.py"), "experts": fingerprints, "curve": curve.points}
        write_json(path, asked | row)


def reached(curve: Sequence[Sequence[float]], accuracy: float) -> float | None:
    """The seconds from which on a curve is never below an accuracy; None if it ends below.

    >>> reached([(1.0, 20.0), (2.0, 35.0), (3.0, 25.0), (4.0, 35.0), (5.0, 40.0)], 30.0)
    4.0
    """
    since = None
    for seconds, found, *_ in curve:
        if found < accuracy:
            since = None
        elif since is None:
            since = seconds
    return since


def compare(seed: int, plain: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """The figures of one seed."""
    end, peak = plain["curve"][-1], max(plain["curve"], key=lambda point: (point[1], -point[0]))
    at_end, at_peak = (reached(ours["curve"], point[1]) for point in (end, peak))
    last = ours["curve"][-1]
    return {
        "seed": seed,
        "straightforward": {"accuracy": end[1], "seconds": end[0], "curve": plain["curve"]},
        "exml": {"accuracy": last[1], "seconds": last[0], "reached_seconds": at_end, "curve": ours["curve"]},
        "ratio": None if at_end is None else round(at_end / end[0], 4),
        "ratio_of_whole_times": round(last[0] / end[0], 4),
        "ratio_to_best": None if at_peak is None else round(at_peak / peak[0], 4),
    }


def gather(work: Path) -> dict[str, Any]:
    """Everything that lies below the folder of the runs and is a pair on the same experts and machine."""
    found: dict[str, list[dict[str, Any]]] = {}
    environments: list[dict[str, Any]] = []
    commits: set[str] = set()
    for name in SCENARIOS:
        for budget in sorted((work / name).glob("budget-*"), key=lambda path: float(path.name.split("-", 1)[1])):
            rows: list[dict[str, Any]] = []
            settings: dict[str, Any] = {}
            for folder in sorted(budget.iterdir(), key=lambda path: int(path.name)):
                files = [folder / f"{side}.json" for side in SIDES]
                if not all(path.exists() for path in files):
                    continue
                plain, ours = (json.loads(path.read_text(encoding="utf-8")) for path in files)
                if any(plain[key] != ours[key] for key in ("environment", "experts")):
                    continue
                rows.append(compare(int(folder.name), plain, ours))
                settings = {"straightforward": plain["settings"], "exml": ours["settings"]}
                commits |= {plain["commit"], ours["commit"]}
                if plain["environment"] not in environments:
                    environments.append(plain["environment"])
            if rows:
                summary = {"budget": settings["straightforward"]["budget"], "n": len(rows), **_summary(rows)}
                found.setdefault(name, []).append({**summary, "settings": settings, "runs": rows})
    return {"about": __doc__, "commits": sorted(commits), "environments": environments, "scenarios": found}


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Median, least and greatest over the seeds; a ratio that a seed does not have makes none."""
    summary: dict[str, Any] = {}
    for key in ("ratio", "ratio_of_whole_times", "ratio_to_best"):
        values = [row[key] for row in rows]
        summary[key] = None if None in values else _spread(values)
    for side in SIDES:
        for key in ("accuracy", "seconds"):
            summary[f"{side}_{key}"] = _spread([row[side][key] for row in rows])
    return summary


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 4), "least": min(values), "greatest": max(values)}


def _warm_up(student: Normalized, shape: Sequence[int], device: str) -> None:
    """What a library does at its first call is nobody's time."""
    once = copy.deepcopy(student)
    once(torch.zeros(2, *shape, device=device)).sum().backward()


def main() -> None:
    """Measure what is not measured yet, and gather."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/time-to-accuracy"), help="folder for the runs")
    parser.add_argument("--scenarios", nargs="+", default=SCENARIOS, choices=SCENARIOS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--budget", type=float, default=0.1, help="of the straightforward version; 1 is the paper's")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    for name in arguments.scenarios:
        for seed in arguments.seeds:
            measure(name, seed, arguments.budget, arguments.device, arguments.work)
            write_json(RESULTS, gather(arguments.work))
    for name, comparisons in gather(arguments.work)["scenarios"].items():
        for row in comparisons:
            short = {key: value for key, value in row.items() if key not in ("runs", "settings")}
            print(name, json.dumps(short, indent=1))


if __name__ == "__main__":
    main()
