"""Families of random images drawn by rule, each a pure function of its generator."""

from exml.generators.procedural.dead_leaves import dead_leaves
from exml.generators.procedural.smooth_noise import smooth_noise
from exml.generators.procedural.strokes import strokes

__all__ = ["dead_leaves", "smooth_noise", "strokes"]
