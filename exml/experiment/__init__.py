"""Whole runs: what ``exml run`` does, for use from Python."""

from exml.experiment.run import run
from exml.experiment.stop import Stop
from exml.experiment.stream import StreamResult, run_stream
from exml.experiment.stream_strategy import stream_strategy
from exml.experiment.zoo import stream_folder, train_zoo
from exml.experiment.zoo_display import ZooDisplay
from exml.experiment.zoo_evaluation import ExpertEvaluation, StreamEvaluation, ZooEvaluation, evaluate_zoo
from exml.experiment.zoo_events import ExpertTrained, ZooEvent, ZooObserver, ZooStarted
from exml.experiment.zoo_table import zoo_table

__all__ = [
    "ExpertEvaluation",
    "ExpertTrained",
    "Stop",
    "StreamEvaluation",
    "StreamResult",
    "ZooDisplay",
    "ZooEvaluation",
    "ZooEvent",
    "ZooObserver",
    "ZooStarted",
    "evaluate_zoo",
    "run",
    "run_stream",
    "stream_folder",
    "stream_strategy",
    "train_zoo",
    "zoo_table",
]
