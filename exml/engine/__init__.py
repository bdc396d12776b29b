"""The hot loops: where all the time of a run goes."""

from exml.engine.frozen import frozen

__all__ = ["frozen"]
