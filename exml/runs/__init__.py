"""Whole runs: what the ``exml`` command does, for use from Python.

Contains the run loop over a source of experts with its record, result, display, figures and forecast, and the training
of many experts. :mod:`exml.runs.sweep` runs grids. May import everything except the command line.
"""

from exml.learning.stop import Stop
from exml.runs import evaluation, sweep
from exml.runs.agreement import Agreement, ExpertAgreement, LabelShare, agreement, agreement_table
from exml.runs.assessment import Assessment, ClassifierAccuracy, assess, assessment_table, expert_loads
from exml.runs.display import ProgressDisplay
from exml.runs.environment import Environment
from exml.runs.executors import LocalProcesses, RayCluster
from exml.runs.figures import accuracy_figure, confusion_figure, images_figure, samples_figure, save_figure
from exml.runs.forecast import Forecast, duration, forecast
from exml.runs.jobs import Ended, Executor, Failure, Job, Resources, ThisProcess
from exml.runs.learn import learn
from exml.runs.loggers import CSVLogger, MetricLogger, MLflowLogger, TensorBoardLogger, WandbLogger
from exml.runs.report import write_report
from exml.runs.result import BaselineResult, ExperienceResult, Result, Seconds, StrategyResult, TargetAudit
from exml.runs.run import RunSettings, forecasts, run
from exml.runs.sources import FolderExperts, LabelChoices, LiveExperts, ScenarioExperts
from exml.runs.student import Student
from exml.runs.table import result_table
from exml.runs.zoo import (
    ExpertEvaluation,
    StreamEvaluation,
    ZooEvaluation,
    evaluate_zoo,
    stream_folder,
    train_zoo,
    zoo_table,
)

__all__ = [
    "Agreement",
    "Assessment",
    "BaselineResult",
    "CSVLogger",
    "ClassifierAccuracy",
    "Ended",
    "Environment",
    "Executor",
    "ExperienceResult",
    "ExpertAgreement",
    "ExpertEvaluation",
    "Failure",
    "FolderExperts",
    "Forecast",
    "Job",
    "LabelChoices",
    "LabelShare",
    "LiveExperts",
    "LocalProcesses",
    "MLflowLogger",
    "MetricLogger",
    "ProgressDisplay",
    "RayCluster",
    "Resources",
    "Result",
    "RunSettings",
    "ScenarioExperts",
    "Seconds",
    "Stop",
    "StrategyResult",
    "StreamEvaluation",
    "Student",
    "TargetAudit",
    "TensorBoardLogger",
    "ThisProcess",
    "WandbLogger",
    "ZooEvaluation",
    "accuracy_figure",
    "agreement",
    "agreement_table",
    "assess",
    "assessment_table",
    "confusion_figure",
    "duration",
    "evaluate_zoo",
    "evaluation",
    "expert_loads",
    "forecast",
    "forecasts",
    "images_figure",
    "learn",
    "result_table",
    "run",
    "samples_figure",
    "save_figure",
    "stream_folder",
    "sweep",
    "train_zoo",
    "write_report",
    "zoo_table",
]
