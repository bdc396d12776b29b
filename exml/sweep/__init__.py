"""Many runs: scenarios, strategies, fields of strategies and seeds, several runs at a time, and one table."""

from exml.sweep.backend import Backend, Ended, Failure, Task
from exml.sweep.comparison_figure import comparison_figure
from exml.sweep.display import SweepDisplay
from exml.sweep.forecast import Forecast, forecast
from exml.sweep.groups import Group, groups_of
from exml.sweep.local import LocalProcesses
from exml.sweep.plan import Plan, PlannedRun, Status, plan
from exml.sweep.ray_cluster import RayCluster
from exml.sweep.results import Row, SweepResult
from exml.sweep.run import run
from exml.sweep.sweep import Choice, Resources, Sweep
from exml.sweep.sweep_events import RunEnded, SweepEvent, SweepObserver, SweepStarted
from exml.sweep.tables import plan_line, plan_table, sweep_table

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
