"""What people look at: the result of a run, its table and pictures, and a display while it is under way."""

from exml.report._canvas import save_figure
from exml.report.accuracy_figure import accuracy_figure
from exml.report.progress import ProgressDisplay
from exml.report.result import BaselineResult, Environment, ExperienceResult, Result, Seconds, StrategyResult
from exml.report.run_events import (
    BaselineEvaluated,
    BaselinesStarted,
    ExpertRefused,
    ExpertsProgress,
    RunEvent,
    RunObserver,
    StrategyStarted,
    StudentEvaluated,
    WaitingForExpert,
    WaitingForProcess,
)
from exml.report.samples_figure import samples_figure
from exml.report.table import result_table

__all__ = [
    "BaselineEvaluated",
    "BaselineResult",
    "BaselinesStarted",
    "Environment",
    "ExperienceResult",
    "ExpertRefused",
    "ExpertsProgress",
    "ProgressDisplay",
    "Result",
    "RunEvent",
    "RunObserver",
    "Seconds",
    "StrategyResult",
    "StrategyStarted",
    "StudentEvaluated",
    "WaitingForExpert",
    "WaitingForProcess",
    "accuracy_figure",
    "result_table",
    "samples_figure",
    "save_figure",
]
