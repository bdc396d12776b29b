"""What a sweep shows before and after the work: its plan, and what came out."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group as Lines
from rich.table import Table
from rich.text import Text

from exml.runs.forecast import duration
from exml.runs.sweep.forecast import Forecast
from exml.runs.sweep.groups import groups_of, label_of, spread
from exml.runs.sweep.plan import Plan, PlannedRun
from exml.runs.sweep.results import SweepResult


def plan_table(plan: Plan, forecast: Forecast) -> Table:
    """One line for each combination in each scenario: its runs, how far they are, and the time that one takes.

    Args:
        plan: of the sweep.
        forecast: of the plan.
    """
    table = new_table(("runs", "done", "failed", "a run"))
    groups: dict[tuple[str, str], list[PlannedRun]] = {}
    for run in plan.runs:
        groups.setdefault((run.scenario, run.combination), []).append(run)
    for kind, runs in groups.items():
        counts = [str(sum(run.status == status for run in runs)) for status in ("done", "failed")]
        seconds = forecast.seconds.get(kind)
        unknown = kind not in forecast.seconds or runs[0].parts is None
        time = "" if unknown else "?" if seconds is None else duration(seconds)
        table.add_row(runs[0].scenario, label_of(runs[0].strategy, runs[0].fields), str(len(runs)), *counts, time)
    return table


def plan_line(plan: Plan, forecast: Forecast | None = None, workers: int | None = None) -> str:
    """The plan in a sentence.

    Args:
        plan: of the sweep.
        forecast: of the plan; without it nothing is said of the time.
        workers: how many runs there are at a time, if that is known.
    """
    counts = [f"{plan.count(status)} {status}" for status in ("done", "begun", "failed") if plan.count(status)]
    line = f"{len(plan.runs)} run(s){', of which ' if counts else ''}{', '.join(counts)}"
    if forecast is None:
        return f"{line}."
    line += f"; {len(forecast.left)} to do"
    if len(forecast.left) > forecast.unknown:
        line += f": about {duration(forecast.total())} of generation and distillation"
        if workers is not None and workers > 1:
            line += f", {duration(forecast.total(workers))} with {workers} at a time"
    if forecast.unknown:
        line += f"; {forecast.unknown} run(s) cannot be measured here"
    return f"{line}."


def sweep_table(result: SweepResult) -> Lines:
    """What came out of a sweep: means over seeds and their standard deviations, then what failed and why.

    Args:
        result: of the sweep.
    """
    groups = groups_of(result)
    table = new_table(("n", "Stream, %", "Forgot", "seconds"))
    for scenario in dict.fromkeys(group.scenario for group in groups):
        here = [group for group in groups if group.scenario == scenario]
        for group in here:
            forgot = [100 * row.forgetting for row in group.rows if row.forgetting is not None]
            seconds = [row.seconds for row in group.rows if row.seconds is not None]
            table.add_row(
                scenario,
                Text(group.label, style="" if group.kind == "strategy" else "dim"),
                str(len(group.accuracies)),
                group.text,
                spread(forgot),
                spread(seconds),
                end_section=group is here[-1],
            )
    failed = [
        Text(f"failed: {row.scenario} {label_of(row.strategy, row.fields)} seed {row.seed}: {row.error}", style="red")
        for row in result.failed
    ]
    if failed:
        failed = [Text(""), *failed, Text("The whole of each error is in failures/, what the run printed in logs/.")]
    return Lines(table, *failed)


def new_table(right: Sequence[str]) -> Table:
    """As all of ours look: names, then what there is to say."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("scenario", no_wrap=True)
    table.add_column("strategy")
    for head in right:
        table.add_column(head, justify="right", no_wrap=True)
    return table
