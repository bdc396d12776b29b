"""Whole runs: what ``exml run`` does, for use from Python."""

from exml.experiment.run import run
from exml.experiment.stop import Stop
from exml.experiment.stream import StreamResult, run_stream
from exml.experiment.stream_strategy import stream_strategy

__all__ = ["Stop", "StreamResult", "run", "run_stream", "stream_strategy"]
