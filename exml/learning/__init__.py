"""Learning one student: strategy and builder, the learner (Algorithm 1), checkpoints and events.

Imports the families of components, the engine and the experts; knows no scenario's name, no recipe and no run.
"""

from exml.learning import events
from exml.learning.builder import CompleteBuilder, Given, Missing, StrategyBuilder
from exml.learning.checkpoint import CheckpointFolder
from exml.learning.learner import Learner
from exml.learning.stop import Stop
from exml.learning.strategy import Strategy

__all__ = [
    "CheckpointFolder",
    "CompleteBuilder",
    "Given",
    "Learner",
    "Missing",
    "Stop",
    "Strategy",
    "StrategyBuilder",
    "events",
]
