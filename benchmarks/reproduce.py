"""Measures the paper's tables and figures again.

uv run python benchmarks/reproduce.py table2 table3 figure2 figure3 --out DIR
uv run python benchmarks/reproduce.py gather DIR ... --out benchmarks/results/reproduction
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import attrs
import reproduction
from cyclopts import App, Parameter
from reproduction import Reproduction, ReproductionPlan, spread
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from exml.cli import run_app
from exml.cli.sweep import ExecutorArguments
from exml.runs import ProgressDisplay
from exml.runs.sweep import plan_line, plan_table, sweep_forecast

app = App(name="reproduce", default_parameter=Parameter(negative=()))


@app.default
def measure(
    *what: Literal["table2", "table3", "figure2", "figure3"],
    out: Path,
    asked: Reproduction = Reproduction(),  # noqa: B008  # frozen
    on: ExecutorArguments = ExecutorArguments(),  # noqa: B008  # frozen
    dry_run: bool = False,
    resume: bool = False,
    quiet: bool = False,
) -> int:
    """Measure the cells of the paper's tables and figures, next to the paper's own numbers.

    Trains or finds the experts, runs every scenario with every strategy and seed, and writes into the folder table.md,
    table.json, figure2.png, figure3.png and a small file for each cell. --resume continues a call that was killed, also
    within a cell, and adds cells of other scenarios, strategies or budgets. A cell that fails does not stop the others;
    the exit code is then 1, and --resume retries it. Cells of a scenario without data are listed.

    Args:
        what: Tables and figures; both tables by default.
        out: Folder for the results; new or empty unless it is resumed.
        dry_run: List the cells, their status and the time that the rest will take, and stop.
        resume: Continue in the folder, possibly with other arguments.
        quiet: Print only errors.
    """
    console, errors = Console(quiet=quiet, highlight=False), Console(stderr=True, quiet=quiet)
    executor = on.executor()
    asked = attrs.evolve(asked, parts=tuple(dict.fromkeys(what)) or asked.parts)
    if dry_run:
        made = reproduction.plan(asked, out)
        _say_absent(made, console)
        if made.cells:
            planned = made.as_sweep()
            left = planned.left(retry_failed=True)
            with errors.status("Timing a few steps of each strategy"):
                seconds = sweep_forecast(planned.sweep, left)
            console.print(plan_table(planned, seconds))
            line = plan_line(planned, left, seconds, on.at_once(asked.resources))
            console.print(line, markup=False, soft_wrap=True)
        return 0
    try:
        with ProgressDisplay(errors) as display:
            outcome = reproduction.run(asked, out, resume=resume, executor=executor, observers=[display])
    except KeyboardInterrupt:
        command = ["python", *sys.argv, *([] if resume else ["--resume"])]
        raise KeyboardInterrupt(f"; resume with: {shlex.join(command)}") from None
    _show(console, outcome.tables, out)
    _say_absent(outcome.plan, console)
    for cell in outcome.failed:
        errors.print(f"failed: {cell.name}: {cell.error}", markup=False, highlight=False, soft_wrap=True)
    return 1 if outcome.failed else 0


@app.command
def gather(*folders: Annotated[Path, Parameter(allow_leading_hyphen=False)], out: Path, quiet: bool = False) -> None:
    """Copy the cells of several folders into one, and make its tables and figures; nothing is measured.

    Args:
        folders: Folders of reproductions; none makes the tables of OUT again.
        out: Folder for the cells, tables and figures.
        quiet: Print only errors.
    """
    _show(Console(quiet=quiet, highlight=False), reproduction.gather(folders, out), out)


def _say_absent(made: ReproductionPlan, console: Console) -> None:
    """Print what cannot be measured, one line per reason."""
    reasons: dict[str, dict[str, None]] = {}
    for (column, row), reason in made.absent.items():
        whole = all((column, other) in made.absent for name, other in made.wanted if name == column)
        reasons.setdefault(reason, {})[column if whole else f"{row} of {column}"] = None
    for reason, names in reasons.items():
        console.print(f"Not measured: {', '.join(names)}: {reason}.", markup=False, soft_wrap=True)


def _show(console: Console, tables: tuple[reproduction.Table, ...], out: Path) -> None:
    """Print the rows and columns that were measured; the files have the rest."""
    for table in tables:
        columns = [column for column in table.columns if column.scenario is not None]
        if not columns:
            continue
        shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        shown.add_column(table.name.replace("table", "Table "))
        for column in columns:
            shown.add_column(column.title, justify="right")
        for row in table.rows:
            entries = [table.entries[row.name, column.name] for column in columns]
            if any(entry.mean is not None for entry in entries):
                shown.add_row(row.title, *map(_cell, entries))
        console.print(shown)
    console.print(f"Ours over the paper's; the reasons for empty cells, and the conditions: {out / 'table.md'}.")


def _cell(entry: reproduction.Entry) -> Text:
    ours = "-" if entry.mean is None else f"{spread(entry.mean, entry.deviation)} ({len(entry.seeds)})"
    return Text(ours).append(f"\n{'' if entry.paper is None else spread(*entry.paper)}", style="dim")


if __name__ == "__main__":
    sys.exit(run_app(app))
