"""The hot loops: where all the time of a run goes."""

from exml.engine.frozen import frozen
from exml.engine.training import Training

__all__ = ["Training", "frozen"]
