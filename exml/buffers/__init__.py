"""What is kept of earlier experiences: the buffer M_i (Sec. 3)."""

from exml.buffers.class_balanced import ClassBalanced
from exml.buffers.cumulative import Cumulative
from exml.buffers.equal_parts import EqualParts
from exml.buffers.latest import Latest
from exml.buffers.reservoir import Reservoir
from exml.buffers.unbounded import Unbounded

__all__ = ["ClassBalanced", "Cumulative", "EqualParts", "Latest", "Reservoir", "Unbounded"]
