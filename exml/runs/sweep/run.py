"""A whole sweep from Python: what ``exml sweep`` calls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from exml.core.errors import CheckpointError
from exml.learning.events import Event, Observer, WaitingForProcess
from exml.runs.figures import save_figure
from exml.runs.folder_lock import lock, require_free
from exml.runs.jobs import Executor, Failure
from exml.runs.local_processes import LocalProcesses
from exml.runs.sources import ScenarioExperts
from exml.runs.sweep.comparison_figure import comparison_figure
from exml.runs.sweep.plan import PlannedRun, plan
from exml.runs.sweep.results import Gathering, SweepResult
from exml.runs.sweep.sweep import Sweep
from exml.runs.sweep.task import Task, carry_out


def run(
    sweep: Sweep,
    out: Path | str,
    *,
    resume: bool = False,
    retry_failed: bool = False,
    executor: Executor | None = None,
    observers: Sequence[Observer] = (),
) -> SweepResult:
    """Carry out the runs of a sweep, several at a time, and gather their results.

    The folder gets ``sweep.yaml``, ``runs/`` with the folder of each :func:`exml.runs.run`, ``experts/``, which runs of
    the same scenario and seed share, ``logs/`` with the output of the runs, ``failures/`` with the errors of failed
    runs, ``results.csv`` and ``results.json``, rewritten whenever a run is over, and finally ``comparison.png``. A
    killed sweep resumes with ``resume=True``, each of its runs from the last checkpoint. A run that fails does not stop
    the others.

    Args:
        sweep: what to do.
        out: the folder; new or empty unless the sweep is resumed.
        resume: resume the sweep in the folder. It may have new seeds or values.
        retry_failed: when resuming, also retry failed runs from their last checkpoint.
        executor: carries out the runs; :class:`exml.runs.LocalProcesses` by default.
        observers: called with every event.

    Raises:
        CheckpointError: when the folder holds something else, has nothing to resume, or cannot be written.
        ExmlError: when :func:`plan` raises it.
    """
    out = Path(out)
    plan(sweep)  # raises before anything is written
    if not resume:
        require_free(out, "sweep.yaml", "sweep")
    elif not (out / "sweep.yaml").exists():
        raise CheckpointError(
            expected=f"a sweep in {out}", got="none", remedy="check the path, or begin the sweep without resuming"
        )

    def emit(event: Event) -> None:
        for observer in observers:
            observer(event)

    with lock(out, (lambda: emit(WaitingForProcess(out))) if resume else None):
        made = plan(sweep, out)
        for part in out.glob(".*.part"):  # half-written files of a killed process
            part.unlink(missing_ok=True)
        sweep.save(out / "sweep.yaml")
        gather = Gathering(made, out)

        def finish(task: Task, failure: Failure | None) -> str:
            result = gather()
            result.save(out)
            return result.summary(task.name)

        tasks = [task_of(run, sweep, out) for run in made.left(retry_failed=retry_failed)]
        carry_out(tasks, len(made.runs), executor or LocalProcesses(), sweep.resources, out, finish, emit)
        result = gather()
        result.save(out)
        save_figure(comparison_figure(result), out / "comparison.png")
        return result


def task_of(run: PlannedRun, sweep: Sweep, out: Path) -> Task:
    """A run as plain data, with absolute paths: its process may work in another folder."""
    out = out.resolve()
    return Task(
        name=run.name,
        source=ScenarioExperts(run.scenario, sweep.split, out / "experts" / f"{run.scenario}-{run.seed}"),
        strategy=run.strategy,
        parts={} if run.parts is None else run.parts.to_dict(),
        settings=sweep.settings(run.seed),
        imports=tuple(str(Path(name).resolve()) if name.endswith(".py") else name for name in sweep.imports),
        folder=out / "runs" / run.name,
        log=out / "logs" / f"{run.name}.txt",
    )
