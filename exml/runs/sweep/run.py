"""A whole sweep from Python: what ``exml sweep`` calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from exml.core.errors import CheckpointError
from exml.core.files import write_text
from exml.core.imports import import_all
from exml.learning import events
from exml.learning.events import Event, JobProgress, Observer
from exml.learning.strategy import Strategy
from exml.runs.executors import LocalProcesses
from exml.runs.figures import save_figure
from exml.runs.folder_lock import lock, require_free
from exml.runs.jobs import Ended, Executor, Failure, Job, Report, Resources, to_all
from exml.runs.run import RunSettings
from exml.runs.run import run as run_scenario
from exml.runs.sources import ScenarioExperts
from exml.runs.sweep.plan import PlannedRun, failure_file, plan
from exml.runs.sweep.results import Row, SweepResult, comparison_figure, gather
from exml.runs.sweep.sweep import Sweep


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
    runs, ``results.csv`` and ``results.json``, rewritten at the end of every run, and finally ``comparison.png``. A
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
        CheckpointError: the folder holds something else, has nothing to resume, or cannot be written.
        ExmlError: :func:`plan` raises it.
    """
    out, emit = Path(out), to_all(observers)
    require_usable(out, "sweep.yaml", "sweep", resume=resume)
    plan(sweep)  # raises before anything is written
    with lock(out, partial(emit, events.WaitingForProcess(out)) if resume else None):
        made = plan(sweep, out)
        sweep.save(out / "sweep.yaml")
        rows: dict[str, list[Row]] = {}

        def gathered() -> SweepResult:
            result = gather(made, out, rows)
            result.save(out)
            return result

        def finish(name: str, _: Failure | None) -> str:
            return gathered().summary(name)

        jobs = [job_of(run, sweep, out) for run in made.left(retry_failed=retry_failed)]
        carry_out(jobs, len(made.runs), executor or LocalProcesses(), sweep.resources, out, finish, emit)
        result = gathered()
        save_figure(comparison_figure(result), out / "comparison.png")
        return result


def require_usable(out: Path, record: str, what: str, *, resume: bool) -> None:
    """Require a new or empty folder or, to resume, one with the file ``record``.

    Raises:
        CheckpointError: the folder holds something else, or has nothing to resume.
    """
    if not resume:
        require_free(out, record, what)
    elif not (out / record).exists():
        remedy = f"check the path, or begin the {what} without resuming"
        raise CheckpointError(expected=f"a {what} in {out}", got="none", remedy=remedy)


def job_of(run: PlannedRun, sweep: Sweep, out: Path, source: ScenarioExperts | None = None) -> Job:
    """The job of a run; by default, all runs of its scenario and seed share their experts.

    Paths are absolute, since the process of the job may work in another folder.
    """
    out = out.resolve()
    if source is None:
        source = ScenarioExperts(run.scenario, sweep.split, out / "experts" / f"{run.scenario}-{run.seed}")
    call = partial(
        _work,
        source=source,
        strategies={} if run.parts is None else {run.strategy: run.parts.to_dict()},
        settings=sweep.settings(run.seed),
        imports=tuple(str(Path(name).resolve()) if name.endswith(".py") else name for name in sweep.imports),
        folder=out / "runs" / run.name,
    )
    return Job(run.name, call, out / "logs" / f"{run.name}.txt")


def _work(
    report: Report,
    source: ScenarioExperts,
    strategies: Mapping[str, Any],
    settings: RunSettings,
    imports: tuple[str, ...],
    folder: Path,
) -> None:
    """Carry out a run, from its last checkpoint if it was begun before; strategies arrive as plain data."""
    import_all(imports)
    total = 0

    def observe(event: Event, /) -> None:
        nonlocal total
        if isinstance(event, events.StrategyStarted):
            total = event.experiences or 0
        elif isinstance(event, events.StudentEvaluated):
            report(event.experience, total)

    made = {name: Strategy.from_dict(plain) for name, plain in strategies.items()}
    begun = (folder / "run.json").exists()
    run_scenario(source, made, folder, settings=settings, resume=begun, observers=[observe])


def carry_out(
    jobs: Sequence[Job],
    total: int,
    executor: Executor,
    resources: Resources,
    out: Path,
    finish: Callable[[str, Failure | None], str],
    emit: Callable[[Event], None],
) -> None:
    """Carry out the jobs of runs, several at a time, and write the errors of those that fail into ``out/failures/``.

    Args:
        jobs: from :func:`job_of`, in the order in which they are started.
        total: number of runs, including those that were done before.
        executor: carries out the jobs.
        resources: of each run.
        out: folder of the sweep.
        finish: called with the name and the failure of a run that ended; returns the outcome in a few words.
        emit: called with each event.
    """

    def tell(told: JobProgress | Ended) -> None:
        if isinstance(told, JobProgress):
            emit(told)
            return
        failure = told.failure
        if failure is None and not (out / "runs" / told.name / "result.json").exists():
            failure = Failure("the run left no result.json; do all machines see the same folder?", "")
        if failure is not None:
            write_text(failure_file(out, told.name), f"{failure.message}\n\n{failure.details}")
        emit(events.JobEnded(told.name, finish(told.name, failure), None if failure is None else failure.message))

    for job in jobs:
        failure_file(out, job.name).unlink(missing_ok=True)
    emit(events.JobsStarted(tuple(job.name for job in jobs), total))
    if jobs:
        executor(jobs, resources, tell)
