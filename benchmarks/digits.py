"""Every strategy and every baseline on the embedded scenarios, over several seeds, and the page that shows them.

    uv run python benchmarks/digits.py --work DIR       # measure; killed, it goes on where it was
    uv run python benchmarks/digits.py --page-only      # write the page again from the results

The measurements go to ``benchmarks/results/digits.json`` and from there to ``docs/results.md``. All strategies of one
seed learn from the same experts. Nothing was chosen by these test images: settings were tried on the validation split.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from exml import runs
from exml.learning.strategy import Strategy
from exml.recipes import RECIPES, for_scenario
from exml.runs import Result

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "digits.json"
PAGE = ROOT / "docs" / "results.md"
# The paper's cells are for its own scenarios.
NAMES = [name for name in RECIPES if not name.startswith(("paper-", "reference-"))]
SCENARIOS = ("digits-joint", "digits-nc", "digits-mt", "digits-ni")


def wanted(scenario: str, seed: int, names: Sequence[str]) -> dict[str, Strategy]:
    """The recipes as they are now."""
    return {name: for_scenario(name, scenario, seed).build() for name in names}


def finished(work: Path) -> list[Result]:
    """The results of all runs in a folder that are over."""
    return [Result.load(path) for path in sorted(work.glob("*/result.json"))]


def measure(scenario: str, seed: int, names: Sequence[str], work: Path) -> None:
    """Run what no finished run has measured yet with the recipe as it is now."""
    strategies = wanted(scenario, seed, names)
    for result in finished(work):
        if (result.scenario, result.seed) == (scenario, seed):
            for done in result.strategies:
                if done.name in strategies and Strategy.from_dict(done.strategy) == strategies[done.name]:
                    del strategies[done.name]
    if strategies:
        out = work / "-".join((scenario, str(seed), *strategies))
        runs.run(scenario, strategies, out, seed=seed, resume=out.exists())


def gather(results: list[Result]) -> dict[str, Any]:
    """Rows by scenario: stream accuracies in percent, one a seed, with forgetting where there is any."""
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    asked: set[tuple[str, int]] = set()
    for result in results:
        table = rows.setdefault(result.scenario, {})
        current = wanted(result.scenario, result.seed, NAMES)
        for strategy in result.strategies:
            if Strategy.from_dict(strategy.strategy) != current[strategy.name]:
                continue  # of a recipe that has changed since
            row = table.setdefault(strategy.name, _row("strategy", strategy.ex_model))
            row["seeds"].append(result.seed)
            row["accuracy"].append(round(100 * strategy.stream_accuracy[-1], 2))
            if strategy.forgetting is not None:
                row["forgetting"].append(round(100 * strategy.forgetting, 2))
        if (result.scenario, result.seed) in asked:
            continue  # the baselines are the same in every run with these experts
        asked.add((result.scenario, result.seed))
        for baseline in result.baselines:
            row = table.setdefault(baseline.name, _row("baseline", baseline.ex_model))
            if baseline.stream_accuracy is None:
                row["reason"] = baseline.reason
            else:
                row["seeds"].append(result.seed)
                row["accuracy"].append(round(100 * baseline.stream_accuracy, 2))
    first = results[0].environments[0]
    hardware = sorted({e.hardware for result in results for e in result.environments})
    return {
        "seeds": sorted({result.seed for result in results}),
        "hardware": hardware,
        "threads": first.threads,
        "versions": dict(first.versions),
        "commit": _commit(),
        "scenarios": rows,
    }


def _commit() -> str:
    """The last commit that changed the package."""
    command = ["git", "log", "-1", "--format=%h", "--", "exml"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def _row(kind: str, ex_model: bool) -> dict[str, Any]:
    return {
        "kind": kind,
        "ex_model": ex_model,
        "seeds": [],
        "accuracy": [],
        "forgetting": [],
        "reason": None,
    }


def page(measured: dict[str, Any]) -> str:
    """The page, made of nothing but the measurements."""
    seeds, versions = measured["seeds"], measured["versions"]
    lines = [
        "# Results on the embedded scenarios",
        "",
        "Stream accuracy (Eq. 2) in percent on 500 test images, mean ± standard deviation over n of the seeds "
        f"{_list(seeds)}.",
        "A seed decides the order of the classes, the experts and the student; all rows of one seed are about the same",
        "experts. ● keeps to the rules of the ex-model scenario (no data, one model in memory); ○ does not. Settings",
        "were chosen on a validation split of the training images. A row is measured again when its recipe changes,",
        "not whenever the code does.",
        "",
        f"Made by `uv run python benchmarks/digits.py` at commit {measured['commit']} on "
        f"{'; '.join(measured['hardware'])}; "
        f"{measured['threads']} thread(s); {', '.join(f'{name} {text}' for name, text in versions.items())}.",
    ]
    for scenario, table in measured["scenarios"].items():
        lines += [
            "",
            f"## {scenario}",
            "",
            "| | | n | accuracy | forgetting |",
            "| --- | --- | ---: | ---: | ---: |",
        ]
        ranked = sorted(table.items(), key=lambda entry: -statistics.fmean(entry[1]["accuracy"] or [-1]))
        for name, row in ranked:
            mark = "●" if row["ex_model"] else "○"
            cells = [mark, name, str(len(row["seeds"]))]
            cells += [_spread(row[column]) or "–" for column in ("accuracy", "forgetting")]
            lines.append(f"| {' | '.join(cells)} |")
        reasons = {f"*{name}*: {row['reason']}." for name, row in table.items() if row["reason"]}
        lines += ["", *sorted(reasons)] if reasons else []
        lines += ["", *_verdict(table)]
    return "\n".join(lines) + "\n"


def _verdict(table: dict[str, Any]) -> list[str]:
    """Where our default strategy loses, in words, computed."""
    means = {name: statistics.fmean(row["accuracy"]) for name, row in table.items() if row["accuracy"]}
    if "exml" not in means:
        return ["The default strategy, `exml`, has not been measured here."]
    better = sorted((name for name in means if means[name] > means["exml"]), key=lambda name: -means[name])
    if not better:
        return ["Nothing here is better than the default strategy, `exml`."]
    listed = "; ".join(f"{name} by {means[name] - means['exml']:.1f} points" for name in better)
    return [f"Better than the default strategy, `exml`: {listed}."]


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.1f} ± {deviation:.1f}"


def _list(seeds: list[int]) -> str:
    return ", ".join(map(str, seeds))


def main() -> None:
    """Measure, unless only the page is asked for, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/digits"), help="folder for the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--scenarios", nargs="+", default=SCENARIOS, choices=SCENARIOS)
    parser.add_argument("--strategies", nargs="+", default=NAMES, choices=NAMES)
    parser.add_argument("--page-only", action="store_true")
    arguments = parser.parse_args()
    if not arguments.page_only:
        for seed in arguments.seeds:
            for scenario in arguments.scenarios:
                print(f"{scenario}, seed {seed}", flush=True)
                measure(scenario, seed, arguments.strategies, arguments.work)
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        results = finished(arguments.work)
        RESULTS.write_text(json.dumps(gather(results), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(page(json.loads(RESULTS.read_text(encoding="utf-8"))), encoding="utf-8")
    print(f"wrote {os.path.relpath(PAGE)}")


if __name__ == "__main__":
    main()
