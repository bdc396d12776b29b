"""Every strategy and every baseline on the embedded scenarios, over several seeds.

    uv run python benchmarks/digits.py --work DIR       # the same command resumes after a kill

The measurements go to ``benchmarks/results/digits.json`` and from there to ``docs/results.md``. All strategies of one
seed learn from the same experts. ``--strategies`` and ``--scenarios`` measure some rows only; the others stay. Nothing
was chosen by these test images: settings were tried on the validation split.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pages import RESULTS, Found, commit, made_by, mean, missing, sentence, table, wrap

from exml import runs
from exml.learning.strategy import Strategy
from exml.recipes import RECIPES, for_scenario
from exml.runs import Result

COMMAND = "uv run python benchmarks/digits.py"
RESULT = "digits.json"
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
        source, settings = runs.ScenarioExperts(scenario), runs.RunSettings(seed)
        runs.run(source, strategies, out, settings=settings, resume=out.exists())


def gather(results: list[Result]) -> dict[str, Any]:
    """Rows by scenario: stream accuracies in percent, one per seed, with forgetting where it is measured."""
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    seen: set[tuple[str, int]] = set()

    def row_of(scenario: str, name: str, kind: str, ex_model: bool) -> dict[str, Any]:
        empty = {"kind": kind, "ex_model": ex_model, "seeds": [], "accuracy": [], "forgetting": [], "reason": None}
        return rows.setdefault(scenario, {}).setdefault(name, empty)

    for result in results:
        current = wanted(result.scenario, result.seed, NAMES)
        for strategy in result.strategies:
            if Strategy.from_dict(strategy.strategy) != current[strategy.name]:
                continue  # the recipe has changed since
            row = row_of(result.scenario, strategy.name, "strategy", strategy.ex_model)
            row["seeds"].append(result.seed)
            row["accuracy"].append(round(100 * strategy.stream_accuracy[-1], 2))
            if strategy.forgetting is not None:
                row["forgetting"].append(round(100 * strategy.forgetting, 2))
        if (result.scenario, result.seed) in seen:
            continue  # the baselines are the same in every run with these experts
        seen.add((result.scenario, result.seed))
        for baseline in result.baselines:
            row = row_of(result.scenario, baseline.name, "baseline", baseline.ex_model)
            if baseline.stream_accuracy is None:
                row["reason"] = baseline.reason
            else:
                row["seeds"].append(result.seed)
                row["accuracy"].append(round(100 * baseline.stream_accuracy, 2))
    first = results[0].environments[0]
    return {
        "seeds": sorted({result.seed for result in results}),
        "hardware": sorted({e.hardware for result in results for e in result.environments}),
        "threads": first.threads,
        "versions": dict(first.versions),
        "commit": commit(),
        "scenarios": rows,
    }


def merged(old: Mapping[str, Any], new: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """New rows, and the old ones of strategies that were not asked for."""
    rows = {scenario: dict(entries) for scenario, entries in old["scenarios"].items()}
    for scenario, entries in new["scenarios"].items():
        kept = {name: row for name, row in rows.get(scenario, {}).items() if name not in {*entries, *names}}
        rows[scenario] = kept | entries
    both = {name: sorted({*old[name], *new[name]}) for name in ("seeds", "hardware")}
    return {
        **new,
        **both,
        "commit": ", ".join(dict.fromkeys((*old["commit"].split(", "), new["commit"]))),
        "scenarios": rows,
    }


def section(results: Mapping[str, Found]) -> list[str]:
    """The lines of the page *Results* on these scenarios, from the measurements by file name."""
    if RESULT not in results:
        return [missing(COMMAND)]
    measured = results[RESULT]
    seeds = ", ".join(map(str, measured["seeds"]))
    lines = [
        *wrap(
            f"Stream accuracy (Eq. 2) in percent on 500 test images, mean ± standard deviation over n of the seeds "
            f"{seeds}. All rows of one seed use the same experts. ● follows the rules of the ex-model scenario (no "
            "data, one model in memory), ○ does not. Settings were chosen on a validation split of the training "
            "images. A row is measured again when its recipe changes, not whenever the code does."
        ),
        "",
        made_by(COMMAND, measured),
    ]
    for scenario, entries in measured["scenarios"].items():
        ranked = sorted(entries.items(), key=lambda entry: -statistics.fmean(entry[1]["accuracy"] or [-1]))
        rows = []
        for name, row in ranked:
            means = [mean(row[key]) if row[key] else "–" for key in ("accuracy", "forgetting")]
            rows.append(("●" if row["ex_model"] else "○", name, len(row["seeds"]), *means))
        reasons = sorted({f"*{name}*: {row['reason']}." for name, row in entries.items() if row["reason"]})
        lines += ["", f"### {scenario}", "", *table(("|", "|", "n", "accuracy", "forgetting"), rows)]
        lines += ["", *reasons] if reasons else []
        lines += ["", _verdict(entries)]
    return lines


def _verdict(entries: Mapping[str, Found]) -> str:
    """Where our default strategy loses."""
    means = {name: statistics.fmean(row["accuracy"]) for name, row in entries.items() if row["accuracy"]}
    if "exml" not in means:
        return "The default strategy, `exml`, has not been measured here."
    better = sorted((name for name in means if means[name] > means["exml"]), key=lambda name: -means[name])
    listed = [f"{name} by {means[name] - means['exml']:.1f} points" for name in better]
    none = "Nothing here is better than the default strategy, `exml`."
    return sentence("Better than the default strategy, `exml`", listed, none)


def main() -> None:
    """Measure, and write the results and the page."""
    from results_page import PAGE  # which imports this module

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/digits"), help="folder for the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--scenarios", nargs="+", default=SCENARIOS, choices=SCENARIOS)
    parser.add_argument("--strategies", nargs="+", default=NAMES, choices=NAMES)
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        for scenario in arguments.scenarios:
            print(f"{scenario}, seed {seed}", flush=True)
            measure(scenario, seed, arguments.strategies, arguments.work)
    found, path = gather(finished(arguments.work)), RESULTS / RESULT
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {**found, "scenarios": {}}
    PAGE.record(RESULT, merged(old, found, arguments.strategies))


if __name__ == "__main__":
    main()
