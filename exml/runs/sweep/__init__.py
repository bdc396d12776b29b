"""Sweeps: a grid of scenarios, strategies, values of their fields and seeds, carried out several runs at a time.

:func:`plan` builds every run before any work begins, :func:`run` carries them out through an
:class:`exml.runs.Executor`, and :class:`SweepResult` is the table. Imports the rest of ``exml.runs`` and the floors
below.
"""

from exml.runs.sweep._imports import import_all
from exml.runs.sweep.comparison_figure import comparison_figure
from exml.runs.sweep.forecast import sweep_forecast
from exml.runs.sweep.groups import Group, groups_of
from exml.runs.sweep.plan import Plan, PlannedRun, Status, plan
from exml.runs.sweep.results import Row, SweepResult
from exml.runs.sweep.run import run, task_of
from exml.runs.sweep.sweep import Choice, Sweep
from exml.runs.sweep.tables import plan_line, plan_table, sweep_table
from exml.runs.sweep.task import Task, carry_out

__all__ = [
    "Choice",
    "Group",
    "Plan",
    "PlannedRun",
    "Row",
    "Status",
    "Sweep",
    "SweepResult",
    "Task",
    "carry_out",
    "comparison_figure",
    "groups_of",
    "import_all",
    "plan",
    "plan_line",
    "plan_table",
    "run",
    "sweep_forecast",
    "sweep_table",
    "task_of",
]
