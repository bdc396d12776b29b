"""The hot loops: where all the time of a run goes."""

from exml.engine.distillation import PreviousStudent, distill, make_target
from exml.engine.frozen import frozen
from exml.engine.inversion import invert
from exml.engine.training import Training

__all__ = ["PreviousStudent", "Training", "distill", "frozen", "invert", "make_target"]
