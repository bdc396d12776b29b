"""The time that the remaining runs of a sweep will take."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from exml.runs.run import forecasts
from exml.runs.sources import ScenarioExperts
from exml.runs.sweep.plan import PlannedRun
from exml.runs.sweep.sweep import Sweep


def sweep_forecast(sweep: Sweep, left: Sequence[PlannedRun]) -> dict[tuple[str, str], float | None]:
    """Time a few steps of each remaining strategy on this machine, with the threads of a run and one of the seeds.

    Args:
        sweep: whose runs are planned.
        left: the remaining runs.

    Returns:
        Seconds of generation and distillation in one run, by scenario and combination; None if it cannot be measured
        here.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(sweep.resources.cpus)
    try:
        one_of_each = {(run.scenario, run.combination): run for run in reversed(left)}
        return {kind: _seconds(run, sweep) for kind, run in one_of_each.items()}
    finally:
        torch.set_num_threads(threads)


def _seconds(run: PlannedRun, sweep: Sweep) -> float | None:
    if run.parts is None:
        return 0.0
    source = ScenarioExperts(run.scenario, sweep.split)
    try:
        return forecasts(source, {run.strategy: run.parts}, sweep.settings(run.seed))[run.strategy].seconds
    except Exception:  # the run itself reports what is wrong with its strategy
        return None
