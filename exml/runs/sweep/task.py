"""A run of a sweep as plain data, and the loop that carries runs out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import attrs

from exml import runs
from exml.core.execution import EAGER, Execution
from exml.core.files import write_text
from exml.learning.events import Event, JobEnded, JobProgress, JobsStarted, StrategyStarted, StudentEvaluated
from exml.learning.strategy import Strategy
from exml.runs.jobs import Ended, Executor, Failure, Job, Report, Resources
from exml.runs.sweep._imports import import_all


@attrs.frozen(kw_only=True)
class Task:
    """One run as plain data, for whichever process carries it out.

    Args:
        name: of the run.
        scenario: its name.
        strategy: name of the strategy.
        parts: the strategy as plain data; empty to measure the baselines only.
        seed: of the run.
        split: the images that the accuracies are measured on.
        device: where to run, as torch names it.
        execution: of the hot loops.
        imports: modules to import first.
        folder: of the run.
        experts: folder of the experts, which runs of the same scenario and seed share.
        log: file for what the run prints.
        baselines: whether to measure them.
    """

    name: str
    scenario: str
    strategy: str
    parts: Mapping[str, Any]
    seed: int
    split: Literal["test", "validation"] = "test"
    device: str = "cpu"
    execution: Execution = EAGER
    imports: tuple[str, ...] = ()
    folder: str
    experts: str
    log: str
    baselines: bool = True

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

        runs.run(
            self.scenario,
            {self.strategy: Strategy.from_dict(self.parts)} if self.parts else {},
            self.folder,
            seed=self.seed,
            split=self.split,
            device=self.device,
            execution=self.execution,
            resume=(Path(self.folder) / "run.json").exists(),
            experts=self.experts,
            baselines=self.baselines,
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
        if failure is None and not (Path(task.folder) / "result.json").exists():
            failure = Failure("the run left no result.json; do all machines see the same folder?", "")
        if failure is not None:
            write_text(failure_file(out, told.name), f"{failure.message}\n\n{failure.details}")
        emit(JobEnded(told.name, finish(task, failure), None if failure is None else failure.message))

    for task in tasks:  # what an earlier attempt left
        failure_file(out, task.name).unlink(missing_ok=True)
        Path(task.log).unlink(missing_ok=True)
    emit(JobsStarted(tuple(by_name), total))
    if tasks:
        executor([Job(task.name, partial(Task.run, task), Path(task.log)) for task in tasks], resources, tell)
