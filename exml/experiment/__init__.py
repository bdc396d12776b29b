"""Whole runs: what ``exml run`` does, for use from Python."""

from exml.experiment.run import run

__all__ = ["run"]
