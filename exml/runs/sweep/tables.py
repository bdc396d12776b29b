"""Tables of a sweep: the plan before the work, the results after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Group as Lines
from rich.table import Table
from rich.text import Text

from exml.runs.forecast import duration
from exml.runs.sweep.groups import groups_of, label_of, spread
from exml.runs.sweep.plan import Plan, PlannedRun
from exml.runs.sweep.results import SweepResult


def plan_table(plan: Plan, seconds: Mapping[tuple[str, str], float | None]) -> Table:
    """One line for each combination in each scenario: number of runs, their status, and the time of one run.

    Args:
        plan: of the sweep.
        seconds: of one run, from :func:`~exml.runs.sweep.sweep_forecast`.
    """
    table = new_table(("runs", "done", "failed", "one run"))
    groups: dict[tuple[str, str], list[PlannedRun]] = {}
    for run in plan.runs:
        groups.setdefault((run.scenario, run.combination), []).append(run)
    for kind, runs in groups.items():
        counts = [str(sum(run.status == status for run in runs)) for status in ("done", "failed")]
        known = seconds.get(kind)
        time = "" if kind not in seconds or runs[0].parts is None else "?" if known is None else duration(known)
        table.add_row(runs[0].scenario, label_of(runs[0].strategy, runs[0].fields), str(len(runs)), *counts, time)
    return table


def plan_line(
    plan: Plan, left: Sequence[PlannedRun], seconds: Mapping[tuple[str, str], float | None], workers: int | None
) -> str:
    """The plan in one sentence.

    Args:
        plan: of the sweep.
        left: the remaining runs.
        seconds: of one run, from :func:`~exml.runs.sweep.sweep_forecast`.
        workers: number of runs at a time, if it is known.
    """
    counts = [f"{plan.count(status)} {status}" for status in ("done", "begun", "failed") if plan.count(status)]
    line = f"{len(plan.runs)} run(s){', of which ' if counts else ''}{', '.join(counts)}; {len(left)} to do"
    times = [seconds[run.scenario, run.combination] for run in left]
    known = [time for time in times if time is not None]
    if known:
        line += f": about {duration(sum(known))} of generation and distillation"
        if workers is not None and workers > 1:
            line += f", {duration(max(sum(known) / workers, *known))} with {workers} at a time"
    if len(known) < len(times):
        line += f"; {len(times) - len(known)} run(s) cannot be measured here"
    return f"{line}."


def sweep_table(result: SweepResult) -> Lines:
    """The results: means over seeds with standard deviations, then the errors of failed runs.

    Args:
        result: of the sweep.
    """
    groups = groups_of(result)
    table = new_table(("n", "Stream, %", "Forgot", "seconds"))
    for scenario in dict.fromkeys(group.scenario for group in groups):
        here = [group for group in groups if group.scenario == scenario]
        for group in here:
            table.add_row(
                scenario,
                Text(group.label, style="" if group.kind == "strategy" else "dim"),
                str(len(group.accuracies)),
                group.text,
                spread([100 * row.forgetting for row in group.rows if row.forgetting is not None]),
                spread([row.seconds for row in group.rows if row.seconds is not None]),
                end_section=group is here[-1],
            )
    failed = [
        Text(f"failed: {row.scenario} {label_of(row.strategy, row.fields)} seed {row.seed}: {row.error}", style="red")
        for row in result.failed
    ]
    if failed:
        failed = [Text(""), *failed, Text("The full errors are in failures/, the output of the runs in logs/.")]
    return Lines(table, *failed)


def new_table(right: Sequence[str]) -> Table:
    """A table with columns for scenario and strategy, and further columns of numbers."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("scenario", no_wrap=True)
    table.add_column("strategy")
    for head in right:
        table.add_column(head, justify="right", no_wrap=True)
    return table
