"""Many runs: scenarios, strategies, fields of strategies and seeds, several runs at a time, and one table."""

from exml.runs.sweep.backend import Backend, Ended, Failure, Task
from exml.runs.sweep.comparison_figure import comparison_figure
from exml.runs.sweep.display import SweepDisplay
from exml.runs.sweep.forecast import Forecast, forecast
from exml.runs.sweep.groups import Group, groups_of
from exml.runs.sweep.local import LocalProcesses
from exml.runs.sweep.plan import Plan, PlannedRun, Status, plan
from exml.runs.sweep.ray_cluster import RayCluster
from exml.runs.sweep.results import Row, SweepResult
from exml.runs.sweep.run import run
from exml.runs.sweep.sweep import Choice, Resources, Sweep
from exml.runs.sweep.sweep_events import RunEnded, SweepEvent, SweepObserver, SweepStarted
from exml.runs.sweep.tables import plan_line, plan_table, sweep_table

__all__ = [
    "Backend",
    "Choice",
    "Ended",
    "Failure",
    "Forecast",
    "Group",
    "LocalProcesses",
    "Plan",
    "PlannedRun",
    "RayCluster",
    "Resources",
    "Row",
    "RunEnded",
    "Status",
    "Sweep",
    "SweepDisplay",
    "SweepEvent",
    "SweepObserver",
    "SweepResult",
    "SweepStarted",
    "Task",
    "comparison_figure",
    "forecast",
    "groups_of",
    "plan",
    "plan_line",
    "plan_table",
    "run",
    "sweep_table",
]
