"""The hot loops: where all the time of a run goes."""

from exml.core.execution import EAGER, Execution, ExecutionWarning
from exml.engine._ridge_head import readout
from exml.engine.allocator import keep_freed_memory
from exml.engine.distillation import PreviousStudent, distill, make_target
from exml.engine.frozen import frozen
from exml.engine.inversion import Inverter, invert, inverter
from exml.engine.lowering import lowered, recorded
from exml.engine.training import Training

__all__ = [
    "EAGER",
    "Execution",
    "ExecutionWarning",
    "Inverter",
    "PreviousStudent",
    "Training",
    "distill",
    "frozen",
    "invert",
    "inverter",
    "keep_freed_memory",
    "lowered",
    "make_target",
    "readout",
    "recorded",
]
