"""Sweeps: a grid of scenarios, strategies, values of their fields and seeds, carried out several runs at a time.

:func:`plan` builds every run before any work begins, :func:`run` carries them out through an
:class:`exml.runs.Executor`, and :class:`SweepResult` is the table. Imports the rest of ``exml.runs`` and the floors
below.
"""

from exml.runs.sweep.plan import Plan, PlannedRun, Status, plan, plan_line, plan_table, sweep_forecast
from exml.runs.sweep.results import Group, Row, SweepResult, comparison_figure, sweep_table
from exml.runs.sweep.run import carry_out, job_of, require_usable, run
from exml.runs.sweep.sweep import Choice, Sweep

__all__ = [
    "Choice",
    "Group",
    "Plan",
    "PlannedRun",
    "Row",
    "Status",
    "Sweep",
    "SweepResult",
    "carry_out",
    "comparison_figure",
    "job_of",
    "plan",
    "plan_line",
    "plan_table",
    "require_usable",
    "run",
    "sweep_forecast",
    "sweep_table",
]
