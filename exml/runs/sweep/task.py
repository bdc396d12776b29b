"""A run of a sweep as plain data, and the loop that carries runs out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from exml.core.files import write_text
from exml.learning.events import Event, JobEnded, JobProgress, JobsStarted, StrategyStarted, StudentEvaluated
from exml.learning.strategy import Strategy
from exml.runs.jobs import Ended, Executor, Failure, Job, Report, Resources
from exml.runs.run import RunSettings, run
from exml.runs.sources import ScenarioExperts
from exml.runs.sweep._imports import import_all


@attrs.frozen(kw_only=True)
class Task:
    """One run as plain data, for whichever process carries it out.

    Args:
        name: of the run.
        source: scenario and experts; runs of the same scenario and seed share the folder of the experts.
        strategy: name of the strategy.
        parts: the strategy as plain data; empty to evaluate only the baselines.
        settings: seed, device and execution.
        imports: modules to import first.
        folder: of the run.
        log: file for what the run prints.
    """

    name: str
    source: ScenarioExperts
    strategy: str
    parts: Mapping[str, Any]
    settings: RunSettings
    imports: tuple[str, ...]
    folder: Path
    log: Path

    def run(self, report: Report) -> None:
        """Carry out the run, from its last checkpoint if it was begun before."""
        import_all(self.imports)
        total = 0

        def observe(event: Event, /) -> None:
            nonlocal total
            match event:
                case StrategyStarted(experiences=int(experiences)):
                    total = experiences
                case StudentEvaluated(experience=experience):
                    report(experience, total)
                case _:
                    pass

        run(
            self.source,
            {self.strategy: Strategy.from_dict(self.parts)} if self.parts else {},
            self.folder,
            settings=self.settings,
            resume=(self.folder / "run.json").exists(),
            observers=[observe],
        )


def failure_file(folder: Path, name: str) -> Path:
    """The file with a run's failure: its message in the first line, the details below."""
    return folder / "failures" / f"{name}.txt"


def carry_out(
    tasks: Sequence[Task],
    total: int,
    executor: Executor,
    resources: Resources,
    out: Path,
    finish: Callable[[Task, Failure | None], str],
    emit: Callable[[Event], None],
) -> None:
    """Carry out runs, several at a time, and keep the errors of those that fail in ``out/failures/``.

    Args:
        tasks: in the order in which they are started.
        total: number of runs, including those that were done before.
        executor: carries them out.
        resources: of each run.
        out: folder of the sweep.
        finish: called when a run is over, with its failure; returns the outcome in a few words.
        emit: called with each event.
    """
    by_name = {task.name: task for task in tasks}

    def tell(told: JobProgress | Ended) -> None:
        if isinstance(told, JobProgress):
            emit(told)
            return
        task, failure = by_name[told.name], told.failure
        if failure is None and not (task.folder / "result.json").exists():
            failure = Failure("the run left no result.json; do all machines see the same folder?", "")
        if failure is not None:
            write_text(failure_file(out, told.name), f"{failure.message}\n\n{failure.details}")
        emit(JobEnded(told.name, finish(task, failure), None if failure is None else failure.message))

    for task in tasks:
        failure_file(out, task.name).unlink(missing_ok=True)
    emit(JobsStarted(tuple(by_name), total))
    if tasks:
        executor([Job(task.name, partial(Task.run, task), task.log) for task in tasks], resources, tell)
