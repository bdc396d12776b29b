"""exml sweep: many runs, and one table of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.console import Console

from exml.cli.arguments import Flag, Whole, again
from exml.core.errors import SettingError
from exml.runs import sweep as sweeps
from exml.runs.sweep import LocalProcesses, RayCluster, Sweep, SweepDisplay, plan_line, plan_table, sweep_table


def sweep(
    file: Annotated[Path, Parameter(allow_leading_hyphen=False)],
    /,
    *,
    out: Path,
    dry_run: Flag = False,
    resume: Flag = False,
    retry_failed: Flag = False,
    backend: Literal["local", "ray"] = "local",
    workers: Whole | None = None,
    address: str | None = None,
    quiet: Flag = False,
) -> int:
    """Carry out a grid of runs: scenarios, strategies, values of their fields, and seeds.

    Writes into the folder: results.csv and results.json with a row for each run and baseline, comparison.png, and each
    run in a folder of its own. A sweep that was killed at any moment goes on with --resume. A run that fails does not
    end the others; then the exit code is 1.

    Args:
        file: YAML with scenarios and strategies; see the documentation, page 'Many runs'.
        out: Folder for everything that comes out; new or empty, unless the sweep is resumed.
        dry_run: Show the plan and the time that it will take, and stop.
        resume: Go on with the sweep in the folder; the file may have grown meanwhile.
        retry_failed: Go on with it, and begin again what has failed.
        backend: Processes of this machine, or Ray (pip install exml[ray]).
        workers: Runs at a time; by default as many as there is room for.
        address: Of a running Ray cluster; without it Ray is started on this machine.
        quiet: Print nothing but errors.
    """
    if address is not None and backend != "ray":
        raise SettingError(expected="--backend ray, since there is an --address", got=backend, remedy="add it")
    asked = Sweep.load(file)
    made = sweeps.plan(asked, out)
    local = LocalProcesses(workers)
    at_once = len(local.slots(asked.resources)) if backend == "local" else workers
    errors = Console(stderr=True, quiet=quiet)
    console = Console(quiet=quiet, highlight=False)
    if dry_run:
        with errors.status("Measuring each strategy for a moment"):
            known = sweeps.forecast(made, retry_failed=retry_failed)
        console.print(plan_table(made, known))
        console.print(plan_line(made, known, at_once), markup=False, soft_wrap=True)
        return 0
    console.print(plan_line(made), markup=False, soft_wrap=True)
    try:
        with SweepDisplay(errors) as display:
            result = sweeps.run(
                asked,
                out,
                resume=resume or retry_failed,
                retry_failed=retry_failed,
                backend=local if backend == "local" else RayCluster(address, workers),
                observers=[display],
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"; go on with: {again(resumed=resume or retry_failed)}") from None
    console.print(sweep_table(result))
    console.print(f"Everything is in {out}.", markup=False, soft_wrap=True)
    return 1 if result.failed else 0
