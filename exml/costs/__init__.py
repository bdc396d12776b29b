"""What a strategy costs before it is run: seconds and bytes."""

from exml.costs.at_speed import at_speed
from exml.costs.cost import Cost, ExperienceCost, Memory
from exml.costs.estimate import SHARED_MEMORY, estimate
from exml.costs.leaves import counts, leaves
from exml.costs.measure import measure
from exml.costs.model import CostModel
from exml.costs.rates import DistillationRates, GenerationRates, Line, Link, Rates
from exml.costs.sizes import GenerationSizes, Sizes, count

__all__ = [
    "SHARED_MEMORY",
    "Cost",
    "CostModel",
    "DistillationRates",
    "ExperienceCost",
    "GenerationRates",
    "GenerationSizes",
    "Line",
    "Link",
    "Memory",
    "Rates",
    "Sizes",
    "at_speed",
    "count",
    "counts",
    "estimate",
    "leaves",
    "measure",
]
