"""exml sweep: many runs and one table of their results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import attrs
from cyclopts import Parameter
from rich.console import Console

from exml.cli.arguments import PRINTING, Flag, Printing, Whole, again
from exml.core.errors import SettingError
from exml.runs import Executor, LocalProcesses, ProgressDisplay, RayCluster, Resources
from exml.runs import sweep as sweeps
from exml.runs.sweep import Sweep, plan_line, plan_table, sweep_table


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class ExecutorArguments:
    """The arguments of commands that carry out many runs.

    Args:
        backend: Processes of this machine, or Ray (pip install exml[ray]).
        workers: Runs at a time; by default as many as there is room for.
        address: Of a running Ray cluster; without it, Ray is started on this machine.
    """

    backend: Literal["local", "ray"] = "local"
    workers: Whole | None = None
    address: str | None = None

    def executor(self) -> Executor:
        """The executor; an address without Ray is an error."""
        if self.backend == "ray":
            return RayCluster(self.address, self.workers)
        if self.address is not None:
            raise SettingError(expected="--backend ray for an --address", got=self.backend, remedy="add it")
        return LocalProcesses(self.workers)

    def at_once(self, resources: Resources) -> int | None:
        """The number of runs at a time, if it is known."""
        return len(LocalProcesses(self.workers).slots(resources)) if self.backend == "local" else self.workers


def sweep(
    file: Annotated[Path, Parameter(allow_leading_hyphen=False)],
    /,
    *,
    out: Path,
    dry_run: Flag = False,
    resume: Flag = False,
    retry_failed: Flag = False,
    on: ExecutorArguments = ExecutorArguments(),  # frozen
    printing: Printing = PRINTING,
) -> int:
    """Carry out a grid of runs: scenarios, strategies, values of their fields, and seeds.

    Writes results.csv and results.json with a row for each run and baseline, comparison.png, and a folder for each run.
    --resume continues a sweep that was killed. A run that fails does not stop the others; the exit code is then 1.

    Args:
        file: YAML with scenarios and strategies; see the page 'Sweeps' of the documentation.
        out: Folder for the results; new or empty unless the sweep is resumed.
        dry_run: Print the plan and the forecast, and stop.
        resume: Resume the sweep in the folder; the file may have new seeds or values.
        retry_failed: Resume it, and retry failed runs.
    """
    executor, asked = on.executor(), Sweep.load(file)
    made, at_once = sweeps.plan(asked, out), on.at_once(asked.resources)
    left, resume = made.left(retry_failed=retry_failed), resume or retry_failed
    console, errors = printing.console, Console(stderr=True, quiet=printing.quiet)
    if dry_run or not (printing.quiet or printing.json):
        with errors.status("Timing a few steps of each strategy"):
            seconds = sweeps.sweep_forecast(asked, left)
        if dry_run:
            console.print(plan_table(made, seconds))
        console.print(plan_line(made, left, seconds, at_once), markup=False, soft_wrap=True)
    if dry_run:
        return 0
    try:
        with ProgressDisplay(errors) as display:
            settings = {"resume": resume, "retry_failed": retry_failed}
            result = sweeps.run(asked, out, **settings, executor=executor, observers=[display])
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"; resume with: {again(resumed=resume)}") from None
    printing.show(result.records(), sweep_table(result))
    console.print(f"Everything is in {out}.", markup=False, soft_wrap=True)
    return 1 if result.failed else 0
