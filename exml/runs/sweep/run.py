"""A whole sweep from Python: what ``exml sweep`` calls."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from exml.core.errors import CheckpointError
from exml.core.files import write_text
from exml.learning.events import WaitingForProcess
from exml.runs.canvas import save_figure
from exml.runs.folder_lock import lock, require_free
from exml.runs.sweep.backend import Backend, Failure, Task
from exml.runs.sweep.comparison_figure import comparison_figure
from exml.runs.sweep.local import LocalProcesses
from exml.runs.sweep.plan import Plan, PlannedRun, plan
from exml.runs.sweep.results import Gathering, SweepResult, failure_file
from exml.runs.sweep.sweep import Sweep
from exml.runs.sweep.sweep_events import RunEnded, SweepObserver, SweepStarted


def run(
    sweep: Sweep,
    out: Path | str,
    *,
    resume: bool = False,
    retry_failed: bool = False,
    backend: Backend | None = None,
    observers: Sequence[SweepObserver] = (),
) -> SweepResult:
    """Carry out the runs of a sweep, several at a time, and gather what comes out of them.

    The folder gets ``results.csv`` and ``results.json``, written anew whenever a run is over, and ``comparison.png`` at
    the end; beside them ``runs/``, each the folder of an :func:`exml.runs.run`, ``experts/``, which the runs with
    one scenario and seed share, ``logs/`` with what the runs print, ``failures/`` with the errors of those that failed,
    and ``sweep.yaml``. A sweep that was killed, whenever that was, goes on with ``resume=True``: also each run from
    where it was left. A run that fails does not end the others.

    Args:
        sweep: what to do.
        out: the folder; new or empty, unless the sweep is resumed.
        resume: go on with the sweep in the folder. It may have grown meanwhile, by a seed or a value.
        retry_failed: also begin those runs again that have failed, from their last checkpoint; of a resumed sweep.
        backend: who carries out the runs; :class:`LocalProcesses` by default.
        observers: told of every event.

    Raises:
        CheckpointError: the folder holds something already, or nothing to resume, or cannot be written.
        ExmlError: whatever :func:`plan` refuses.
    """
    out = Path(out)
    plan(sweep)  # its faults come before anything is written
    if not resume:
        require_free(out, "sweep.yaml", "sweep")
    elif not (out / "sweep.yaml").exists():
        raise CheckpointError(
            expected=f"a sweep in {out}", got="none", remedy="check the path, or begin the sweep without resuming"
        )

    def on_wait() -> None:
        for observer in observers:
            observer(WaitingForProcess(out))

    with lock(out, on_wait if resume else None):
        made = plan(sweep, out)
        for part in out.glob(".*.part"):  # what a killed process left half-written
            part.unlink(missing_ok=True)
        sweep.save(out / "sweep.yaml")
        return _carry_out(made, out, retry_failed, backend or LocalProcesses(), observers)


def _carry_out(
    made: Plan, out: Path, retry_failed: bool, backend: Backend, observers: Sequence[SweepObserver]
) -> SweepResult:
    left = made.left(retry_failed=retry_failed)
    tasks = [task_of(run, made.sweep, out) for run in left]
    for task in tasks:
        failure_file(out, task.name).unlink(missing_ok=True)
        Path(task.log).unlink(missing_ok=True)
    gather = Gathering(made, out)
    result = gather()
    for observer in observers:
        observer(SweepStarted(made, tuple(task.name for task in tasks), out, result))
    if tasks:
        with closing(backend(tasks, made.sweep.resources)) as ended:
            for told in ended:
                failure = told.failure
                if failure is None and not (out / "runs" / told.name / "result.json").exists():
                    failure = Failure("no result.json came of it; do all machines see the same folder?", "")
                if failure is not None:
                    write_text(failure_file(out, told.name), f"{failure.message}\n\n{failure.details}")
                result = gather()
                result.save(out)
                for observer in observers:
                    observer(RunEnded(told.name, result))
    result.save(out)
    save_figure(comparison_figure(result), out / "comparison.png")
    return result


def task_of(run: PlannedRun, sweep: Sweep, out: Path) -> Task:
    """A run as plain data, with absolute paths: its process may stand elsewhere."""
    out = out.resolve()
    return Task(
        name=run.name,
        scenario=run.scenario,
        strategy=run.strategy,
        parts={} if run.parts is None else run.parts.to_dict(),
        seed=run.seed,
        split=sweep.split,
        device=sweep.device,
        compile=sweep.compile,
        precision=sweep.precision,
        threads=sweep.resources.cpus,
        imports=tuple(str(Path(name).resolve()) if name.endswith(".py") else name for name in sweep.imports),
        folder=str(out / "runs" / run.name),
        experts=str(out / "experts" / f"{run.scenario}-{run.seed}"),
        log=str(out / "logs" / f"{run.name}.txt"),
    )
