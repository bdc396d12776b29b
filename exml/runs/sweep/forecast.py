"""The time that the rest of a sweep will take."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import torch

from exml import costs, scenarios
from exml.core.execution import Execution
from exml.core.expert import Expert
from exml.runs.sweep.plan import Plan, PlannedRun


@attrs.frozen
class Forecast:
    """Seconds of generation and distillation, of the runs that are left.

    Args:
        seconds: of one run, by scenario and combination; None where nobody can say.
        left: scenario and combination of each run that is left.
    """

    seconds: Mapping[tuple[str, str], float | None]
    left: tuple[tuple[str, str], ...]

    @property
    def unknown(self) -> int:
        """How many runs nobody can say it of."""
        return sum(self.seconds[kind] is None for kind in self.left)

    def total(self, workers: int = 1) -> float:
        """Wall time of all runs together that something is known of, on so many workers.

        >>> Forecast({("a", "x"): 10.0, ("a", "y"): 2.0}, (("a", "x"), ("a", "y"), ("a", "y"))).total(2)
        10.0
        """
        known = [self.seconds[kind] or 0.0 for kind in self.left]
        return max(sum(known) / workers, max(known, default=0.0))


def forecast(plan: Plan, *, retry_failed: bool = False) -> Forecast:
    """Measure each strategy of a plan for a moment, on this machine, with the threads that a run will have.

    One of the seeds stands for the others. What cannot be measured here, such as a device that only the machines of a
    cluster have, is left open.

    Args:
        plan: of the sweep.
        retry_failed: whether runs that have failed will be begun again.
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
    return Forecast(seconds, tuple((run.scenario, run.combination) for run in left))


def _seconds(run: PlannedRun, plan: Plan) -> float | None:
    if run.parts is None:
        return 0.0
    sweep = plan.sweep
    scenario = scenarios.load(run.scenario, run.seed, sweep.split)
    first = scenario.experiences[0]
    expert = Expert(
        scenario.make_module(run.seed, "experts").eval(),
        first.classes,
        scenario.image_shape,
        outputs=range(scenario.classes),
        mean=scenario.mean,
        std=scenario.std,
        task=first.task,
        name=f"{scenario.name}-1",
    )
    try:
        cost = costs.estimate(
            run.parts,
            expert,
            scenario.make_student(run.seed),
            experts=run.experts,
            device=sweep.device,
            execution=Execution(sweep.compile, sweep.precision),
        )
    except Exception:  # whatever a strategy raises, it is for its runs to say
        return None
    return cost.seconds
