"""Whole runs: what the ``exml`` command does, for use from Python."""

from exml.learning.stop import Stop
from exml.runs import evaluation, sweep
from exml.runs._canvas import save_figure
from exml.runs.accuracy_figure import accuracy_figure
from exml.runs.display import ProgressDisplay
from exml.runs.jobs import Ended, Executor, Failure, Job, Resources, ThisProcess
from exml.runs.local_processes import LocalProcesses
from exml.runs.ray_cluster import RayCluster
from exml.runs.result import BaselineResult, Environment, ExperienceResult, Result, Seconds, StrategyResult
from exml.runs.run import run
from exml.runs.samples_figure import samples_figure
from exml.runs.stream import StreamResult, run_stream
from exml.runs.stream_strategy import stream_strategy
from exml.runs.table import result_table
from exml.runs.zoo import stream_folder, train_zoo
from exml.runs.zoo_evaluation import ExpertEvaluation, StreamEvaluation, ZooEvaluation, evaluate_zoo, zoo_table

__all__ = [
    "BaselineResult",
    "Ended",
    "Environment",
    "Executor",
    "ExperienceResult",
    "ExpertEvaluation",
    "Failure",
    "Job",
    "LocalProcesses",
    "ProgressDisplay",
    "RayCluster",
    "Resources",
    "Result",
    "Seconds",
    "Stop",
    "StrategyResult",
    "StreamEvaluation",
    "StreamResult",
    "ThisProcess",
    "ZooEvaluation",
    "accuracy_figure",
    "evaluate_zoo",
    "evaluation",
    "result_table",
    "run",
    "run_stream",
    "samples_figure",
    "save_figure",
    "stream_folder",
    "stream_strategy",
    "sweep",
    "train_zoo",
    "zoo_table",
]
