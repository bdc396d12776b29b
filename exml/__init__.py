"""exml: learn one model from a stream of other people's trained models, without their data.

Ex-Model continual learning (Carta, Cossu, Lomonaco and Bacciu, arXiv 2112.06511). Equation and section numbers in this
documentation are those of the paper.
"""

from exml import (
    baselines,
    buffers,
    engine,
    errors,
    events,
    experts,
    generators,
    losses,
    models,
    priors,
    recipes,
    scenarios,
)
from exml._registry import component
from exml.builder import StrategyBuilder
from exml.experts import Expert, ExpertStream
from exml.learner import Learner
from exml.samples import Samples
from exml.strategy import Strategy

__all__ = [
    "Expert",
    "ExpertStream",
    "Learner",
    "Samples",
    "Strategy",
    "StrategyBuilder",
    "baselines",
    "buffers",
    "component",
    "engine",
    "errors",
    "events",
    "experts",
    "generators",
    "losses",
    "models",
    "priors",
    "recipes",
    "scenarios",
]

__version__ = "0.1.0"
