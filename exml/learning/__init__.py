"""Learning one student: the strategy and its builder, the learner (Algorithm 1), its checkpoints and events."""

from exml.learning import events
from exml.learning.builder import CompleteBuilder, Given, Missing, StrategyBuilder
from exml.learning.checkpoint import CheckpointFolder
from exml.learning.learner import Learner
from exml.learning.strategy import Strategy

__all__ = [
    "CheckpointFolder",
    "CompleteBuilder",
    "Given",
    "Learner",
    "Missing",
    "Strategy",
    "StrategyBuilder",
    "events",
]
