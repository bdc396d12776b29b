"""The stages of a run: experts, students, baselines, result."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from exml.core.components import uses_real_data
from exml.learning.learner import Learner
from exml.learning.strategy import Strategy
from exml.runs._strategy_run import RunContext, StrategyRun
from exml.runs.accuracy_figure import accuracy_figure
from exml.runs.canvas import save_figure
from exml.runs.evaluation import Evaluation, accuracy_matrix, forgetting
from exml.runs.result import Result, StrategyResult


def carry_out(context: RunContext, strategies: Mapping[str, Strategy]) -> Result:
    """Carry out a run. Each stage does what is not done yet, so a resumed run goes through all of them."""
    source, folder, clock, ranks = context.source, context.folder, context.clock, context.ranks
    clock.enter("experts")
    source.prepare(folder.record.request.seed, context.device, context.tell, ranks)
    rows: list[StrategyResult] = []
    stopped = False
    for name, strategy in strategies.items():
        strategy_run = StrategyRun(name, strategy, context)
        strategy_run()
        rows.append(_row(name, strategy, strategy_run.learner, context))
        del strategy_run  # before the next one
        stopped = ranks.leader_says(context.stop.asked)
        if stopped:
            break
    if ranks.leader:
        clock.enter("evaluation")
        baselines = () if stopped else source.evaluate_baselines(context.device, context.tell)
        clock.save()
        record = folder.record
        rows = [attrs.evolve(row, seconds=record.strategies[row.name].seconds) for row in rows]
        result = Result(
            scenario=record.request.scenario,
            seed=record.request.seed,
            split=record.request.split,
            shared_test=source.shared_test,
            experiences=source.tests,
            strategies=tuple(rows),
            baselines=baselines,
            seconds=sum((row.seconds for row in rows), record.shared),
            environments=record.environments,
            stopped=stopped,
        )
        if rows and source.tests and not stopped:
            save_figure(accuracy_figure(result), folder.path / "accuracy.png")
        result.save(folder.result)
    ranks.wait()
    return Result.load(folder.result)


def _row(name: str, strategy: Strategy, learner: Learner, context: RunContext) -> StrategyResult:
    progress = context.folder.record.strategies[name]
    sizes = tuple(test.images for test in context.source.tests)
    rows = [Evaluation(row, sizes) for row in progress.accuracy]
    return StrategyResult(
        name=name,
        strategy=strategy.to_dict(),
        ex_model=not uses_real_data(strategy),
        accuracy=progress.accuracy,
        stream_accuracy=tuple(row.stream_until(place) for place, row in enumerate(rows, 1)),
        forgetting=forgetting(accuracy_matrix(rows)) if rows else None,
        seconds=progress.seconds,
        folder=str(context.folder.of(name).relative_to(context.folder.path)),
        experiences=learner.experience,
        classes=learner.classes_seen,
        forecast=progress.forecast,
    )
