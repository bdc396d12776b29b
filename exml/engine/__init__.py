"""The two hot loops, inversion and distillation, and how they run fast: lowering, compilation, capture, ranks.

Imports the families (experts, priors, losses, ...), models, protocols and the core.
"""

from exml.core.execution import EAGER, Execution, ExecutionWarning
from exml.engine._ridge_head import ridge_head
from exml.engine.allocator import keep_freed_memory
from exml.engine.distillation import (
    DistillationContext,
    PreviousStudent,
    Teachers,
    distill,
    hints_for,
    store_logits,
    views_of,
)
from exml.engine.forward import frozen, teacher_logits
from exml.engine.hints import Hints, Watched
from exml.engine.inversion import Goal, Inversion, Inverter, invert, inverter
from exml.engine.lowering import lowered, recorded
from exml.engine.reading import Reader, narrowing_weights, reader_of, related
from exml.engine.training import Training

__all__ = [
    "EAGER",
    "DistillationContext",
    "Execution",
    "ExecutionWarning",
    "Goal",
    "Hints",
    "Inversion",
    "Inverter",
    "PreviousStudent",
    "Reader",
    "Teachers",
    "Training",
    "Watched",
    "distill",
    "frozen",
    "hints_for",
    "invert",
    "inverter",
    "keep_freed_memory",
    "lowered",
    "narrowing_weights",
    "reader_of",
    "recorded",
    "related",
    "ridge_head",
    "store_logits",
    "teacher_logits",
    "views_of",
]
