"""The time that the rest of a sweep will take."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import torch

from exml.runs.run import forecasts
from exml.runs.sources import ScenarioExperts
from exml.runs.sweep.plan import Plan, PlannedRun


@attrs.frozen
class SweepForecast:
    """Seconds of generation and distillation of the remaining runs.

    Args:
        seconds: of one run, by scenario and combination; None if it cannot be measured here.
        left: scenario and combination of each remaining run.
    """

    seconds: Mapping[tuple[str, str], float | None]
    left: tuple[tuple[str, str], ...]

    @property
    def unknown(self) -> int:
        """The number of remaining runs that cannot be measured here."""
        return sum(self.seconds[kind] is None for kind in self.left)

    def total(self, workers: int = 1) -> float:
        """Wall time of the other remaining runs with a number of workers.

        >>> SweepForecast({("a", "x"): 10.0, ("a", "y"): 2.0}, (("a", "x"), ("a", "y"), ("a", "y"))).total(2)
        10.0
        """
        known = [self.seconds[kind] or 0.0 for kind in self.left]
        return max(sum(known) / workers, max(known, default=0.0))


def sweep_forecast(plan: Plan, *, retry_failed: bool = False) -> SweepForecast:
    """Time a few steps of each remaining strategy on this machine, with the threads of a run and one of the seeds.

    Args:
        plan: of the sweep.
        retry_failed: whether failed runs will be retried.
    """
    left = plan.left(retry_failed=retry_failed)
    seconds: dict[tuple[str, str], float | None] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(plan.sweep.resources.cpus)
    try:
        for run in left:
            kind = (run.scenario, run.combination)
            if kind not in seconds:
                seconds[kind] = _seconds(run, plan)
    finally:
        torch.set_num_threads(threads)
    return SweepForecast(seconds, tuple((run.scenario, run.combination) for run in left))


def _seconds(run: PlannedRun, plan: Plan) -> float | None:
    if run.parts is None:
        return 0.0
    source = ScenarioExperts(run.scenario, plan.sweep.split)
    try:
        return forecasts(source, {run.strategy: run.parts}, plan.sweep.settings(run.seed))[run.strategy].seconds
    except Exception:  # the run itself reports what is wrong with its strategy
        return None
